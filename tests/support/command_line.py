"""Type commands of pipelit-agents in the test's own process."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner, Result

from pipelit_agents.cli import app


@cache
def root() -> Any:
    """Return the root command. Typer takes longer to make it than most commands take to run."""
    return get_command(app)


def typed(*words: str, stdin: str | bytes = "") -> Result:
    """Run a command as ``CliRunner.invoke`` does, which makes the root command each time."""
    runner = CliRunner()
    code: Any = 0
    exception: BaseException | None = None
    with runner.isolation(input=stdin) as streams:
        try:
            root().main(args=words, prog_name=runner.get_default_prog_name(root()))
        except SystemExit as error:
            code = error.code or 0
            exception = error if code else None
        except Exception as error:
            code, exception = 1, error
        sys.stdout.flush()
        sys.stderr.flush()
        stdout, stderr, output = (each.getvalue() for each in streams)
    return Result(runner, stdout, stderr, output, None, code, exception)
