"""Storage: the tables, their migrations, and the engine that opens them."""
