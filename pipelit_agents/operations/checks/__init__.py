"""The deployment checks, one module for each concept."""
