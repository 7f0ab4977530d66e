"""Checks of ``langgraph.json``: who may call the server, and what it passes on or stores."""

from __future__ import annotations

from pipelit_agents.operations.checks.deployment import (
    Deployment,
    deployment_check,
    object_in,
    read_json_object,
)
from pipelit_agents.operations.checks.finding import Finding, listed, passed
from pipelit_agents.operations.origins import origin_problems
from pipelit_agents.operations.server_settings import (
    auth_problems,
    header_problems,
    secrets_of_server,
    webhook_problems,
)

__all__ = ["server_auth", "server_cors", "server_headers", "server_secrets", "server_webhooks"]


@deployment_check("server CORS", why="any site could send requests from a user's browser")
def server_cors(deployment: Deployment) -> Finding:
    """The server names the sites whose pages may call it."""
    cors = object_in(deployment.served(), "http", "cors")
    if named := deployment.environ.get("CORS_CONFIG"):
        # It takes precedence over the file.
        cors = read_json_object("CORS_CONFIG", named)
    if cors.get("allow_origins") is None and not cors.get("allow_origin_regex"):
        return Finding(
            "langgraph.json names no origins, which allows every site",
            '"http": {"cors": {"allow_origins": []}} in langgraph.json',
        )
    if found := origin_problems(cors):
        return Finding(
            f"langgraph.json {', '.join(found)}",
            '"http": {"cors": {"allow_origins": ["https://your.site"]}} in langgraph.json, '
            r"or an allow_origin_regex of your own names, with escaped dots: "
            r"https://\w+\.your\.site",
        )
    return passed()


@deployment_check("server auth", why="every endpoint must require an API key")
def server_auth(deployment: Deployment) -> Finding:
    """Every endpoint requires an API key of this package."""
    served = deployment.served()
    auth, http = object_in(served, "auth"), object_in(served, "http")
    if problems := auth_problems(deployment.folder, auth, http):
        return Finding(
            "; ".join(each for each, _ in problems), ", ".join(fix for _, fix in problems)
        )
    return passed()


@deployment_check("server secrets", why="the file is in git, and in each image")
def server_secrets(deployment: Deployment) -> Finding:
    """The file contains no secret."""
    if found := secrets_of_server(deployment.served()):
        return Finding(
            f"langgraph.json contains secrets: {listed(found)}",
            "remove them, replace them, and set the new ones where the server runs: "
            '"env": ".env", or the platform\'s secrets',
        )
    return passed()


@deployment_check("server headers", why="headers with API keys would be stored or logged")
def server_headers(deployment: Deployment) -> Finding:
    """No header with a key is copied into checkpoints or logs."""
    if found := header_problems(object_in(deployment.served(), "http")):
        return Finding(listed(found), '"excludes": ["authorization", "x-api-key", "cookie"]')
    return passed()


@deployment_check("server webhooks", why="a caller chooses the address of its webhook")
def server_webhooks(deployment: Deployment) -> Finding:
    """A webhook can't call the server itself, and uses TLS."""
    if found := webhook_problems(object_in(deployment.served(), "webhooks")):
        return Finding(
            listed(found), '"webhooks": {"url": {"require_https": true}} and nothing else'
        )
    return passed()
