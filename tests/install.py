"""Install packages with uv, which takes seconds, or with pip where uv can't be used.

Run by ``make`` with the words of ``pip install``, by the Python of the environment that gets the
packages, or with ``--python`` for another environment. uv doesn't read pip's configuration, so this
program passes on the settings that say where packages come from. If pip has a setting that it can't
pass on, or if uv fails, it runs pip.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

# Settings of pip that don't change what is installed.
WITHOUT_EFFECT = {
    "cache-dir",
    "compile",
    "default-timeout",
    "disable-pip-version-check",
    "no-cache-dir",
    "no-color",
    "no-compile",
    "no-input",
    "no-warn-script-location",
    "progress-bar",
    "quiet",
    "require-virtualenv",
    "retries",
    "root-user-action",
    "timeout",
    "verbose",
}
# The variables that pass the others on to uv, and what separates two values. They aren't options of
# the command, because an address may hold a password, and other users can see a command's words.
PASSED_ON = {
    "cert": ("SSL_CERT_FILE", " "),
    "constraint": ("UV_CONSTRAINT", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "proxy": ("ALL_PROXY", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}


def settings(listed: str) -> dict[str, str]:
    """Read what ``pip config list`` prints: for each setting the value that pip would take."""
    found: dict[str, tuple[int, str]] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        rank = {"global": 1, "install": 2, ":env:": 3}.get(section)
        if rank and rank >= found.get(key, (0, ""))[0]:
            found[key] = rank, str(ast.literal_eval(value))
    return {key: value for key, (_, value) in found.items()}


def for_uv(pip: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str] | str:
    """Return the variables that uv needs, or the setting of pip for which it has none."""
    # pip trusts the certificates of the system too.
    variables = {"UV_SYSTEM_CERTS": "true"}
    for key, value in pip.items():
        if key in PASSED_ON:
            name, between = PASSED_ON[key]
            variables[name] = between.join(value.split())
        elif key not in WITHOUT_EFFECT:
            return key
    if "UV_INDEX" in variables:
        # As pip does: the newest version, wherever it is.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    # Whoever has set up uv knows better.
    return {name: value for name, value in variables.items() if name not in environ}


def with_uv(python: str, words: Sequence[str]) -> bool:
    """Install with uv, and return whether that worked. The reason is printed if it didn't."""
    pip = [sys.executable, "-m", "pip"]
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True)
    variables = for_uv(settings(listed.stdout), os.environ)
    if isinstance(variables, str):
        print(f"install: uv has no setting like pip's {variables}, so pip is used", file=sys.stderr)
        return False
    quiet = ["--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "install", *quiet, "uv"], check=False).returncode != 0:
        return False
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    done = subprocess.run([*command, *words], env={**os.environ, **variables}, check=False)
    if done.returncode != 0:
        print("install: uv failed, so pip is used", file=sys.stderr)
    return done.returncode == 0


def main(words: list[str]) -> int:
    """Install what the words of a ``pip install`` name; the exit code."""
    python = sys.executable
    if words[0] == "--python":
        python, words = words[1], words[2:]
    if with_uv(python, words):
        return 0
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    upgrade = [sys.executable, "-m", "pip", "install", *quiet, "--upgrade", "pip>=25.1"]
    command = [sys.executable, "-m", "pip", "--python", python, "install", *quiet, *words]
    for each in (upgrade, command):
        done = subprocess.run(each, check=False)
        if done.returncode != 0:
            break
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
