"""Identity that agents can prove, and secrets they cannot leak."""
