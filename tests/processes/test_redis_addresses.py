"""Addresses of Redis: each of those that are promised reaches a real server of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import certify, server_context
from conftest import Clock
from keeper import Keeper
from redis_server import Gate, RedisServer, free_port, until

from pipelit_agents import Pipelit
from pipelit_agents.errors import CodeRejected, ConfigurationError, LedgerUnavailable
from pipelit_agents.ledger.redis_url import masked_address

PASSWORD = "s3cret-%2F:word"


@pytest.fixture
def accounts(tmp_path: Path, key: str, clock: Clock) -> dict[str, Any]:
    """What a Pipelit with two agents is made of, but for where Redis is."""
    made = {"database_url": f"sqlite:///{tmp_path}/a.db", "encryption_keys": [key], "clock": clock}
    with Pipelit(**made) as pipelit:
        pipelit.create_schema()
        pipelit.users.create("alice")
        for name in ("agent_writer", "agent_editor"):
            pipelit.users.create_agent(name, owner="alice", purpose="takes part")
    return made


def servers(keeper: Keeper, count: int) -> Iterator[list[RedisServer]]:
    """Servers that aren't started yet, on ports of their own."""
    with keeper.own_folder() as folder:
        made = []
        for number in range(count):
            there = folder / str(number)
            there.mkdir()
            made.append(RedisServer(there, "--port", str(free_port(22_767))))
        yield made
        for each in made:
            each.close()


@pytest.fixture
def server(keeper: Keeper) -> Iterator[RedisServer]:
    """One."""
    for made in servers(keeper, 1):
        yield made[0]


@pytest.fixture
def three(keeper: Keeper) -> Iterator[list[RedisServer]]:
    """Three."""
    yield from servers(keeper, 3)


def port(server: RedisServer) -> str:
    """Where a server listens."""
    return server.options[1]


def works(accounts: dict[str, Any], clock: Clock, url: str, after: Any = None) -> None:
    """A code is accepted once, and after something happened the next one is, too."""
    with Pipelit(**accounts, redis_url=url) as pipelit:
        writer, editor = pipelit.agent("agent_writer"), pipelit.agent("agent_editor")
        for happens in (None, after):
            if happens:
                happens()
            code = writer.totp_code(audience="agent_editor").code
            assert editor.verify_peer("agent_writer", code)
            with pytest.raises(CodeRejected):
                editor.verify_peer("agent_writer", code)
            clock.advance(90)


def is_refused(accounts: dict[str, Any], url: str) -> str:
    """Nothing is accepted; what was said, which is no password."""
    with Pipelit(**accounts, redis_url=url) as pipelit:
        code = pipelit.agent("agent_writer").totp_code(audience="agent_editor").code
        with pytest.raises(LedgerUnavailable, match="PIPELIT_REDIS_URL") as caught:
            pipelit.agent("agent_editor").verify_peer("agent_writer", code)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def test_a_port_a_socket_and_a_number(
    accounts: dict[str, Any], clock: Clock, server: RedisServer
) -> None:
    """``redis://`` and ``unix://`` with the number of a database."""
    redis = server.start()
    works(accounts, clock, f"redis://127.0.0.1:{port(server)}/3")
    works(accounts, clock, f"unix://{server.socket}?db=5")
    assert {each: redis.info("keyspace")[each]["keys"] for each in redis.info("keyspace")} == {
        "db3": 2,
        "db5": 2,
    }


@pytest.mark.parametrize("user", ["", "pipelit"])
def test_a_password_and_a_user(
    accounts: dict[str, Any], clock: Clock, server: RedisServer, user: str
) -> None:
    """In the address, percent-encoded; an account of Redis's that may do only this is enough."""
    redis = server.start()
    if user:
        rights = ["~pipelit:*", "-@all", "+eval", "+evalsha", "+get", "+set"]
        rights += ["+time", "+info", "+client|setinfo", "+client", "+select", "+ping"]
        redis.execute_command("ACL", "SETUSER", user, "on", ">s3cret-/:word", *rights)
        redis.execute_command("ACL", "SETUSER", "default", "off")
    else:
        redis.config_set("requirepass", "s3cret-/:word")
    works(accounts, clock, f"redis://{user}:{PASSWORD}@127.0.0.1:{port(server)}")


@pytest.mark.parametrize("login", ["", ":wr0ng-word@", "bob:wr0ng-word@"])
def test_a_wrong_password_is_refused_and_not_repeated(
    accounts: dict[str, Any], server: RedisServer, login: str
) -> None:
    """Without the password, or with another, nothing is accepted; no message shows one."""
    server.start().config_set("requirepass", "s3cret-/:word")
    said = is_refused(accounts, f"redis://{login}127.0.0.1:{port(server)}")
    assert "wr0ng" not in said
    assert f"127.0.0.1:{port(server)}" in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@h:1/2?password=pw", "redis://***@h:1/2"),
        ("redis+sentinel://u:pw@h,i:2/m?sentinel_password=pw", "redis+sentinel://***@h,i:2/m"),
        ("unix://:pw@/run/redis.sock?db=1", "unix://***@/run/redis.sock"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_an_address_is_shown_without_secrets(url: str, shown: str) -> None:
    """In messages the password and all options are left out."""
    assert masked_address(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "h:6379",
        "http://h",
        "redis+nosuch://h",
        "redis+sentinel://h:26379",
        "redis://h:port",
        "redis+sentinel://h:port/m",
        "redis+sentinel:///m",
        "redis://h?socket_timeout=x",
    ],
)
def test_an_address_that_is_none_is_a_configuration_error(
    accounts: dict[str, Any], url: str
) -> None:
    """It names the setting, at first use."""
    with (
        Pipelit(**accounts, redis_url=url) as pipelit,
        pytest.raises(ConfigurationError, match="PIPELIT_REDIS_URL"),
    ):
        pipelit.agent("agent_editor").verify_peer("agent_writer", "00000000")


# Sentinel


@pytest.fixture
def watched(three: list[RedisServer]) -> list[RedisServer]:
    """A master, its replica and a sentinel that watches them; they and it have passwords."""
    master, replica, sentinel = three
    first = master.start()
    second = replica.start("--replicaof", "127.0.0.1", port(master))
    until(lambda: second.info("replication")["master_link_status"] == "up")
    for each in (first, second):
        each.config_set("masterauth", "s3cret-/:word")
        each.config_set("requirepass", "s3cret-/:word")
    settings = sentinel.folder / "sentinel.conf"
    settings.write_text(
        f"port {port(sentinel)}\nunixsocket {sentinel.socket}\ndir {sentinel.folder}\n"
        f"logfile {sentinel.folder}/log\n"
        f"sentinel monitor mymaster 127.0.0.1 {port(master)} 1\n"
        'sentinel auth-pass mymaster "s3cret-/:word"\n'
        "sentinel down-after-milliseconds mymaster 300\n"
        "sentinel failover-timeout mymaster 3000\n"
    )
    watcher = sentinel.launch(str(settings), "--sentinel")
    until(lambda: watcher.info("sentinel")["master0"]["slaves"] == 1)
    return three


def test_sentinel_finds_the_master_and_the_one_after_it(
    accounts: dict[str, Any], clock: Clock, watched: list[RedisServer]
) -> None:
    """Sentinel names the master; when that died, the replica that it promoted, by itself."""
    master, _replica, sentinel = watched
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{port(sentinel)}"
    url = f"redis+sentinel://:{PASSWORD}@{hosts}/mymaster/2"

    def fail_over() -> None:
        with sentinel.client().pubsub(ignore_subscribe_messages=True) as events:
            events.subscribe("+switch-master")
            events.get_message(timeout=5)
            master.kill()
            assert events.get_message(timeout=30)

    works(accounts, clock, url, fail_over)


def test_a_sentinels_own_password(
    accounts: dict[str, Any], clock: Clock, watched: list[RedisServer]
) -> None:
    """``sentinel_password`` is for the sentinel; without it nothing is accepted."""
    sentinel = watched[2]
    sentinel.client().execute_command("ACL", "SETUSER", "default", "resetpass", ">w4tch")
    url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{port(sentinel)}/mymaster"
    works(accounts, clock, f"{url}?sentinel_password=w4tch")
    assert "w0rd" not in is_refused(accounts, f"{url}?sentinel_password=wr0ng-w0rd")


def test_a_service_that_sentinel_does_not_know_is_refused(
    accounts: dict[str, Any], watched: list[RedisServer]
) -> None:
    """Another service's name: nothing is accepted."""
    url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{port(watched[2])}/other"
    assert "other" in is_refused(accounts, url)


# Cluster


def test_a_cluster(accounts: dict[str, Any], clock: Clock, server: RedisServer) -> None:
    """The keys of one decision lie in one slot; a cluster that lost slots is refused."""
    redis = server.start("--cluster-enabled", "yes")
    url = f"redis+cluster://127.0.0.1:{port(server)}"
    assert is_refused(accounts, url)
    redis.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    until(lambda: redis.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    works(accounts, clock, url)
    assert redis.dbsize() == 2
    redis.execute_command("CLUSTER", "DELSLOTS", *range(16384))
    is_refused(accounts, url)


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for ``localhost`` that nobody else signed."""
    return certify(tmp_path)


@pytest.fixture
def secured(server: RedisServer, certificate: Path) -> Iterator[Gate]:
    """A server behind TLS."""
    server.start()
    gate = Gate(server.socket, server_context(certificate))
    yield gate
    gate.close()


def test_tls(accounts: dict[str, Any], clock: Clock, secured: Gate, certificate: Path) -> None:
    """``rediss://`` with a certificate that is trusted and of the host's name."""
    works(accounts, clock, f"rediss://localhost:{secured.port}?ssl_ca_certs={certificate}")


@pytest.mark.parametrize(
    ("scheme", "host", "trusts"),
    [("rediss", "localhost", False), ("rediss", "127.0.0.1", True), ("redis", "localhost", True)],
    ids=["untrusted", "another name", "no TLS"],
)
def test_tls_that_can_not_be_trusted_is_refused(
    accounts: dict[str, Any],
    secured: Gate,
    certificate: Path,
    scheme: str,
    host: str,
    trusts: bool,
) -> None:
    """Refuse an unknown certificate, one for another host, and no TLS: nothing is accepted."""
    query = f"?ssl_ca_certs={certificate}" if trusts and scheme == "rediss" else ""
    is_refused(accounts, f"{scheme}://{host}:{secured.port}{query}")
