"""The files of the pages, the health, and the description of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from desk_client import DeskTransport
from fastapi import APIRouter, FastAPI
from internals import lasting_readiness

from pipelit_agents import Pipelit
from pipelit_agents.desk import DeskSettings, app, make_app, pages
from pipelit_agents.desk.app import OPEN_ROUTERS, ROUTERS
from pipelit_agents.errors import StorageError


@pytest.fixture
def root(desk_app: FastAPI) -> Iterator[httpx.Client]:
    """A client without a key, at the root."""
    with httpx.Client(transport=DeskTransport(desk_app), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package has these pages."""
    folder = tmp_path / "static"
    (folder / "views").mkdir(parents=True)
    (folder / "index.html").write_text("<title>desk</title>")
    (folder / "views" / "a.js").write_text("export {};")
    (folder / "secret.py").write_text("KEY = 1")
    (tmp_path / "outside.js").write_text("no")
    monkeypatch.setattr(pages, "files", lambda _: tmp_path)
    # Desks with the same routers have the same pages, which were read already.
    monkeypatch.setattr(app, "ROUTERS", (APIRouter(),))


@pytest.mark.usefixtures("_files")
def test_pages_are_served_with_their_types(pipelit: Pipelit) -> None:
    """A page and its modules need no key; what isn't a page's file isn't there."""
    desk = make_app(pipelit, DeskSettings(_env_file=None))
    with httpx.Client(transport=DeskTransport(desk), base_url="http://localhost") as client:
        page, module = client.get("/"), client.get("/static/views/a.js")
        assert (page.text, page.headers["content-type"]) == (
            "<title>desk</title>",
            "text/html; charset=utf-8",
        )
        assert module.headers["content-type"] == "text/javascript; charset=utf-8"
        assert module.headers["cache-control"] == "no-cache"
        for known in (module.headers["etag"], f'"x", W/{module.headers["etag"]}'):
            again = client.get("/static/views/a.js", headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
        assert client.head("/static/views/a.js").status_code == 200
        for name in ("secret.py", "views", "views/", "a.js", "outside.js", "index.html/x"):
            assert client.get(f"/static/{name}").status_code == 404, name
        assert client.post("/").status_code == 405


def test_health_touches_nothing(root: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers while the database doesn't."""
    monkeypatch.setattr(Pipelit, "check_key", _unreachable)
    assert root.get("/health").json() == {"status": "ok"}


def test_readiness_asks_what_it_needs(pipelit: Pipelit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database, the key and the ledger have to answer; no detail is told."""
    for broken in ("", "check_key", "check_ledger"):
        if broken:
            monkeypatch.setattr(Pipelit, broken, _unreachable)
        desk = make_app(pipelit, DeskSettings(_env_file=None))
        with httpx.Client(transport=DeskTransport(desk), base_url="http://localhost") as client:
            found = client.get("/ready")
        status = "unavailable" if broken else "ok"
        assert (found.status_code, found.json()) == (503 if broken else 200, {"status": status})
        monkeypatch.undo()


def test_readiness_is_asked_once_a_second(
    root: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody without a key can keep the database busy."""
    lasting_readiness(monkeypatch)
    asked: list[int] = []
    monkeypatch.setattr(Pipelit, "check_ledger", lambda _: asked.append(1))
    assert {root.get("/ready").status_code for _ in range(20)} == {200}
    assert len(asked) == 1


def _unreachable(_: Pipelit) -> None:
    raise StorageError("the database at 10.0.0.7 can't be reached")


@pytest.fixture
def description(operator: httpx.Client, nobody: httpx.Client) -> Any:
    """The description that the desk serves, to callers with a key only."""
    assert nobody.get("/openapi.json").status_code == 401
    return operator.get("/openapi.json").json()


def _operations(description: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_operations_have_names_of_their_own(description: Any) -> None:
    """Each operation has an id, which no other has, and a security scheme that is described."""
    ids = [each["operationId"] for _, each in _operations(description)]
    assert len(set(ids)) == len(ids)
    schemes = description.get("components", {}).get("securitySchemes", {})
    for what, operation in _operations(description):
        named = {name for each in operation.get("security", ()) for name in each}
        assert named <= set(schemes), what


def test_problems_are_described_for_each_operation(description: Any) -> None:
    """What guards and parameters can lead to is there, as problem documents."""
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for what, operation in _operations(description):
        responses = operation["responses"]
        wanted = {"400", "401", "422", "429", "500", "503"}
        wanted |= {"413", "415", "408"} if "requestBody" in operation else set()
        wanted |= {"404"} if "{" in what else set()
        assert wanted <= set(responses), what
        for status, response in responses.items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"], (what, status)


def test_every_endpoint_of_the_api_needs_a_caller(desk_app: FastAPI) -> None:
    """A router that isn't behind a key is listed apart; there is only set-up."""
    assert len(OPEN_ROUTERS) <= 1
    assert not set(map(id, OPEN_ROUTERS)) & set(map(id, ROUTERS))
