"""Read ``langgraph.json``: its secrets, authentication, headers and webhooks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pipelit_agents.operations.secret_values import (
    holds_secret,
    is_generated_word,
    is_reference,
    is_secret,
)

__all__ = ["auth_problems", "header_problems", "secrets_of_server", "webhook_problems"]

# Secrets in commands: NAME=value, --option value, -u user:password.
_PAIRS: Final = re.compile(r"(?<!-)\b([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|\$\([^)]*\)|\S+)")
_OPTIONS: Final = re.compile(
    r"(?<!\S)--?(?!recv-key)([A-Za-z][\w-]+)[ =](\"[^\"]*\"|'[^']*'|[^\s-]\S*)"
)
_LOGINS: Final = re.compile(r"(?<!\S)(?:-u|--user)[ =]?[\"']?[^\s:\"']+:([^\s\"']+)")
_OUR_AUTH: Final = "pipelit_agents.server"
_OURS: Final = '"path": "pipelit_agents.server:auth"'


def secrets_of_server(served: Mapping[str, object]) -> list[str]:
    """Return where ``langgraph.json`` contains a secret."""
    found = []
    env = served.get("env")
    if isinstance(env, dict):
        secret = [name for name, value in env.items() if is_secret(str(name), str(value))]
        found += [f"env.{name}" for name in secret]
    lines = served.get("dockerfile_lines")
    for line in lines if isinstance(lines, list) else []:
        found += [f"dockerfile_lines: {each}" for each in _secrets_of_a_command(str(line))]
    for key, text in _texts(served, ""):
        inside = key.startswith(("env.", "dockerfile_lines"))
        if not inside and holds_secret(text):
            found.append(key)
    return list(dict.fromkeys(found))


def _secrets_of_a_command(line: str) -> list[str]:
    """Return the settings and options with secrets in a Dockerfile line, or its instruction."""
    line = line.replace("\\n", "\n").strip()
    named = _PAIRS.findall(line)
    # ENV NAME value
    named += re.findall(r"\A(?:ENV|ARG)\s+(\w+)\s+([^\s=].*)", line, re.IGNORECASE)
    named += _OPTIONS.findall(line)
    found = [name for name, value in named if is_secret(name, value)]
    if re.search(r"\b(curl|wget|https?)\b", line):
        logins = _LOGINS.findall(line)
        if any(not is_reference(each) for each in logins):
            found.append("--user")
    if found:
        return found
    rest = _PAIRS.sub(" ", line)
    # A nested command is in quotes.
    pieces = [rest, *re.findall(r"[\"']([^\"']*)[\"']", rest)]
    words = re.split(r"[\s\"':,;|&]+", rest)
    if any(map(holds_secret, pieces)) or any(
        "/" not in each and _is_random(each) for each in words
    ):
        return [line.split()[0].upper()[:10]]
    return []


def _is_random(word: str) -> bool:
    is_hash = re.fullmatch(r"[0-9a-fA-F]+|sha\d+[-:].*", word)
    return not is_hash and not is_reference(word) and is_generated_word(word)


def _texts(value: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)


def auth_problems(
    folder: Path, auth: Mapping[str, object], http: Mapping[str, object]
) -> list[tuple[str, str]]:
    """Return the ways to send a request without an API key, each with its fix."""
    path, found = auth.get("path"), []
    if not path:
        whole = '"auth": {"path": "pipelit_agents.server:auth", "disable_studio_auth": true}'
        found.append(("langgraph.json requires no API key", whole))
    elif reason := _why_not_ours(folder, str(path)):
        found.append((f"auth.path names {path}, but {reason}", _OURS))
    if path and auth.get("disable_studio_auth") is not True:
        found.append(("Studio's scheme bypasses the API key", '"disable_studio_auth": true'))
    if auth.get("allow_langsmith_api_keys"):
        found.append(("LangSmith's API keys are accepted too", '"allow_langsmith_api_keys": false'))
    if path and http.get("disable_meta") is not True:
        meta = '"http": {"disable_meta": true}'
        found.append(("/info, /metrics and /docs require no API key", meta))
    open_routes = http.get("enable_custom_route_auth") is not True
    if open_routes and (http.get("app") or "enable_custom_route_auth" in http):
        routes = '"http": {"enable_custom_route_auth": true}'
        found.append(("the routes of http.app require no API key", routes))
    return found


def _why_not_ours(folder: Path, path: str) -> str:
    """Return why an ``auth.path`` isn't this package's authentication, or an empty string."""
    where, colon, name = path.rpartition(":")
    if not colon or not name:
        return "it has to name an object: module:name or ./file.py:name"
    if where == _OUR_AUTH:
        return "" if name == "auth" else f"{_OUR_AUTH} has no {name}"
    found = _file_of(folder, where)
    if found is None:
        return "that file doesn't exist"
    try:
        tree = ast.parse(found.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return "that file can't be read as Python"
    if _is_of_ours(tree, name):
        return ""
    return (
        f"its {name} isn't made by {_OUR_AUTH}.make_auth: this check can't know whom it admits, "
        "and it doesn't use this package's accounts, keys and limits"
    )


def _file_of(folder: Path, where: str) -> Path | None:
    if where.endswith(".py") or "/" in where or "\\" in where:
        candidates = [folder / where]
    else:
        parts = where.split(".")
        roots = [folder, folder / "src"]
        candidates = [root.joinpath(*parts).with_suffix(".py") for root in roots]
        candidates += [root.joinpath(*parts, "__init__.py") for root in roots]
    return next((each for each in candidates if each.is_file()), None)


def _is_of_ours(tree: ast.Module, name: str) -> bool:
    """Whether a module's name is bound to ``auth`` or ``make_auth(…)`` of our server module."""
    # The module's names for ours, and whether the last binding of `name` is ours.
    ours: dict[str, str] = {}
    bound = False
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for each in node.names:
                kept = each.asname or each.name
                whole = f"{node.module}.{each.name}"
                ours.pop(kept, None)
                if node.level == 0 and whole.startswith("pipelit_agents"):
                    ours[kept] = whole
                if kept == name:
                    bound = ours.get(kept) == f"{_OUR_AUTH}.auth"
        elif isinstance(node, ast.Import):
            for each in node.names:
                if each.name.partition(".")[0] == "pipelit_agents":
                    kept = each.asname or "pipelit_agents"
                    ours[kept] = each.name if each.asname else kept
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                value = node.value.func if isinstance(node.value, ast.Call) else node.value
                wanted = "make_auth" if isinstance(node.value, ast.Call) else "auth"
                bound = _dotted(value, ours) == f"{_OUR_AUTH}.{wanted}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound = bound and node.name != name
    return bound


def _dotted(node: ast.AST | None, ours: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        return ours.get(node.id, "")
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, ours)
        return f"{before}.{node.attr}" if before else ""
    return ""


def header_problems(http: Mapping[str, object]) -> list[str]:
    """Return which headers with keys are copied into ``configurable`` (checkpoints) or logs."""
    found = []
    for part, where in (
        ("configurable_headers", "checkpoints and traces"),
        ("logging_headers", "the logs"),
    ):
        rules = http.get(part)
        if not isinstance(rules, dict):
            continue
        includes = [*(rules.get("includes") or []), *(rules.get("include") or [])]
        excludes = [*(rules.get("excludes") or []), *(rules.get("exclude") or [])]
        for header in ("authorization", "x-api-key", "cookie"):
            included = any(_matches(each, header) for each in includes)
            if included and not any(_matches(each, header) for each in excludes):
                found.append(f"{part} copies the header {header} into {where}")
    return found


def _matches(pattern: object, header: str) -> bool:
    parts = map(re.escape, str(pattern).lower().split("*"))
    return re.fullmatch(".*".join(parts), header) is not None


def webhook_problems(webhooks: Mapping[str, object]) -> list[str]:
    """Return the unsafe webhooks that a caller can request."""
    policy = webhooks.get("url")
    if not isinstance(policy, dict):
        return []
    found = []
    if policy.get("disable_loopback") is False:
        found.append("a webhook can call the server itself without an API key (disable_loopback)")
    if policy.get("require_https") is False:
        found.append("a run's state can be sent without TLS (require_https)")
    return found
