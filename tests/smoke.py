"""Try the wheel on each other Python of this machine that the project claims to work on.

Run by ``make smoke``. For each version it makes environments, installs the wheel without an extra,
with each one and with all, and runs what each extra brings, the wheel's consumer, the demo, and
tests of what differs from version to version. A version that isn't on this machine, or doesn't
start, is named and skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Signatures and annotations, pickling, coroutines, connections, child processes, SQLite.
SELECTED = (
    *("test_acting", "test_credentials", "test_encrypted_string", "test_batching"),
    *("test_keyring", "test_otp", "test_payload", "test_secret_scope", "test_twins"),
)
EXTRAS = "all"


def claimed(ours: tuple[int, int] = sys.version_info[:2]) -> list[tuple[int, int]]:
    """The versions that ``pyproject.toml`` names, but for the one that runs us."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = (each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each)
    found = sorted((int(major), int(minor)) for major, minor in (each.split(".") for each in names))
    return [each for each in found if each != ours]


def folders(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where interpreters may be: on the path, and pyenv's."""
    roots = [Path(environ[each]) for each in ("PYENV_ROOT",) if each in environ]
    for word in environ.get("PATH", "").split(os.pathsep):
        if word:
            yield Path(word)
        # pyenv's shims start the versions that a user has chosen; the others are beside them.
        if Path(word).name == "shims":
            roots.append(Path(word).parent)
    roots.append(Path(environ.get("HOME") or "/nonexistent") / ".pyenv")
    for root in dict.fromkeys(roots):
        # The folder may be another account's, as that of the user who ran su.
        with suppress(PermissionError):
            yield from (each / "bin" for each in sorted(root.glob("versions/*"), reverse=True))


def find(version: tuple[int, int], environ: Mapping[str, str]) -> Path | str:
    """An interpreter of a version that starts and can make environments, or why there is none."""
    name = "python{}.{}".format(*version)
    why = f"{name} isn't on this machine"
    for folder in dict.fromkeys(folders(environ)):
        there = folder / name
        if not os.access(there, os.X_OK):
            continue
        try:
            done = subprocess.run(
                [there, "-c", "import ensurepip, sys, venv; print(*sys.version_info[:2])"],
                env=dict(environ),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = f"{there} doesn't start: {error}"
            continue
        if done.returncode == 0 and done.stdout.split() == [str(each) for each in version]:
            return there
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        why = f"{there} can't be used: {lines[-1]}"
    return why


def run(command: Iterable[object], folder: Path) -> str:
    """What a command prints.

    Raises:
        RuntimeError: It failed; the message is what it printed.
    """
    words = [str(each) for each in command]
    done = subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout}")
    return done.stdout


def try_extras(python: Path, version: tuple[int, int], wheel: Path) -> None:
    """Try the wheel with no extra and with each, every one in an environment of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    home = ROOT / ".venv-smoke-{}.{}-extra".format(*version)
    for extra in ["base", *sorted(set(project["optional-dependencies"]) - {"all"})]:
        run([python, "-m", "venv", "--clear", "--without-pip", home], ROOT)
        ours = home / "bin" / "python"
        wanted = str(wheel) if extra == "base" else f"{wheel}[{extra}]"
        run([sys.executable, TESTS / "install.py", "--python", ours, wanted], ROOT)
        run([ours, "-P", "extras.py", extra], TESTS)


def smoke(python: Path, version: tuple[int, int], wheel: Path) -> str:
    """Try the wheel on one Python; the tests' last line."""
    home = ROOT / ".venv-smoke-{}.{}".format(*version)
    ours = home / "bin" / "python"
    try_extras(python, version, wheel)
    # The packages that are there already are kept, as these are most of the work.
    run([python, "-m", "venv", "--without-pip", home], ROOT)
    pip = [sys.executable, "-m", "pip", "--python", ours, "install", "--no-compile", "--quiet"]
    run([*pip, f"{wheel}[{EXTRAS}]", "--group", ROOT / "pyproject.toml:smoke"], ROOT)
    run([*pip, "--force-reinstall", "--no-deps", wheel], ROOT)
    # With -P, what is imported is the wheel, and nothing of the folder.
    run([ours, "-P", "consumer.py"], TESTS)
    run([home / "bin" / "pipelit-agents", "demo", "--json"], home)
    selected = [next(TESTS.rglob(f"{each}.py")).relative_to(TESTS) for each in SELECTED]
    quick = ("-q", "-p", "no:cacheprovider", "-k", "not postgres and not redis")
    said = run([home / "bin" / "pytest", *quick, *selected], TESTS)
    return said.strip().splitlines()[-1]


def main() -> None:
    """Try all of them, two at a time; with ``--list``, print the interpreters only.

    Raises:
        SystemExit: One failed.
    """
    if sys.argv[1] == "--list":
        found = [find(each, os.environ) for each in claimed()]
        print(*(each for each in found if isinstance(each, Path)))
        return
    wheel = Path(sys.argv[1]).resolve()
    failed = False
    with ThreadPoolExecutor(2) as pool:
        running = []
        for version in claimed():
            found = find(version, os.environ)
            if isinstance(found, str):
                print(f"smoke: {found}; skipped")
            else:
                running.append((version, found, pool.submit(smoke, found, version, wheel)))
        for version, python, each in running:
            try:
                print("smoke: Python {}.{}".format(*version), f"({python}):", each.result())
            except RuntimeError as error:
                print("smoke: Python {}.{}".format(*version), f"({python}) failed:", error)
                failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
