"""Alembic's migrations, run by ``Pipelit.create_schema``."""
