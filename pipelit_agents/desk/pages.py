"""The pages of the desk: the files of the package in ``desk/static``, and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipelit_agents.desk.problems import not_found, response_of

__all__ = ["page_routes"]

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_INDEX: Final = "index.html"


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def page_routes() -> list[BaseRoute]:
    """Return the routes of the page and of its files.

    The files are read once. So a path is a name in a table, and can't lead to another folder.
    """
    found = MappingProxyType(dict(_files_in(files("pipelit_agents.desk") / "static", "")))

    async def page(request: Request) -> Response:
        return _answer(request, found, _INDEX)

    async def static(request: Request) -> Response:
        return _answer(request, found, request.path_params["name"])

    return [
        Route("/", page, name="page"),
        Route("/static/{name:path}", static, name="static"),
    ]


def _files_in(folder: Traversable, prefix: str) -> Iterator[tuple[str, _File]]:
    if not folder.is_dir():
        return
    for each in folder.iterdir():
        name = f"{prefix}{each.name}"
        if each.is_dir():
            yield from _files_in(each, f"{name}/")
        elif media_type := _TYPES.get(f".{each.name.rpartition('.')[2]}"):
            content = each.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield name, _File(content, media_type, etag)


def _answer(request: Request, found: Mapping[str, _File], name: str) -> Response:
    file = found.get(name)
    if file is None:
        return response_of(not_found())
    # Browsers ask each time whether it has changed, so that a new version is never half loaded.
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    known = request.headers.get("if-none-match", "")
    if file.etag in (each.strip().removeprefix("W/") for each in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
