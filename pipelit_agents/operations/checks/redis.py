"""Checks of the connections to Redis and Valkey."""

from __future__ import annotations

import re
from typing import Final

from pipelit_agents.ledger.redis_url import (
    RedisUnusable,
    connect,
    masked_address,
    named_errors,
    without_password,
)
from pipelit_agents.operations.addresses import clear_redis
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import (
    Finding,
    NotApplicable,
    listed,
    passed,
    with_notes,
)

__all__ = ["redis_password", "redis_tls"]

_REQUIRES_PASSWORD: Final = passed("it requires a password")


@deployment_check("redis password", why="anyone who can connect can clear locks and counters")
def redis_password(deployment: Deployment) -> Finding:
    """The Redis of the ledger refuses a connection without a password."""
    url = deployment.redis_url()
    if not url:
        raise NotApplicable("no Redis is used")
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

    try:
        with named_errors(url):
            client = connect(without_password(url))
            try:
                client.ping()
            except (AuthenticationError, NoPermissionError):
                return _REQUIRES_PASSWORD
            except RedisError as error:
                if "NOAUTH" in str(error):
                    return _REQUIRES_PASSWORD
                raise
            finally:
                client.close()
    except RedisUnusable as error:
        return Finding(f"it can't be reached: {error}", "make it reachable, and check again")
    return Finding(
        f"{masked_address(url)} answers without a password",
        "set requirepass (or an ACL) in redis.conf, and the password in PIPELIT_REDIS_URL",
    )


@deployment_check("redis TLS", why="others on the network can read the password and the counters")
def redis_tls(deployment: Deployment) -> Finding:
    """Every Redis address uses TLS with a verified certificate, or is on this machine."""
    addresses = deployment.server_addresses()
    found, notes = clear_redis(addresses)
    if found:
        return Finding(
            listed(found),
            "rediss://…, with TLS on the server (tls-port, or your provider's setting) and "
            "verification of its certificate; or a server on this machine",
        )
    if not any(re.match(r"(rediss?|valkeys?|unix)[:+-]", each) for each in addresses.values()):
        raise NotApplicable("no Redis is used")
    return with_notes(notes)
