"""Run tests with the lowest version of each package that ``pyproject.toml`` allows.

Run by ``make lowest``. It makes an environment in ``.venv-lowest``, with all extras.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv

from install import for_uv, settings
from smoke import ROOT, SELECTED, TESTS, run

HOME = ROOT / ".venv-lowest"
PYTHON = HOME / "bin" / "python"
# Beside those of `make smoke`: the ledger, approvals, spawned children, middleware and the desk.
MORE = (
    *("test_apply", "test_approvals", "test_behind_the_gate", "test_checkpoints_forged"),
    *("test_desk_credentials", "test_ledger", "test_spawn", "test_spawn_calls"),
    *("test_spawn_tool", "test_storage", "test_task_approvals_in_agents", "test_tool_gate"),
)


def main() -> None:
    """Resolve, install and test.

    Raises:
        SystemExit: A test failed, or pip has a setting that uv can't have.
    """
    listed = run([sys.executable, "-m", "pip", "config", "list"], ROOT)
    variables = for_uv(settings(listed), os.environ)
    if isinstance(variables, str):
        sys.exit(f"lowest: uv is needed, and has no setting like pip's {variables}")
    os.environ.update(variables)
    uv = [sys.executable, "-m", "uv", "pip"]
    lowest = HOME / "lowest.txt"
    venv.create(HOME, clear=True)
    oldest = ["--python-version", "{}.{}".format(*sys.version_info[:2])]
    wanted = ["--extra", "all", "--resolution", "lowest-direct", *oldest, "--output-file", lowest]
    run([*uv, "compile", "--quiet", "pyproject.toml", *wanted], ROOT)
    install = [*uv, "install", "--quiet", "--python", PYTHON]
    run([*install, "--requirements", lowest], ROOT)
    run([*install, "--no-deps", "--editable", "."], ROOT)
    run([*install, "--constraints", lowest, "--group", "smoke", "langchain-tests"], ROOT)
    files = [next(TESTS.rglob(f"{each}.py")) for each in (*SELECTED, *MORE)]
    options = ["-q", "-p", "no:cacheprovider", "--cases", "2"]
    done = subprocess.run([PYTHON, "-m", "pytest", *options, *files], cwd=ROOT, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
