"""Keys from a function: when it is called, how often, by which thread, and its failures."""

from __future__ import annotations

import functools
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Clock
from internals import KeySource, keyring_of
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import SecretStr
from test_rotation_columns import run as checkpoint
from test_stolen_database import opened

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.errors import ConfigurationError, EncryptionKeysUnavailable, UnsealError
from pipelit_agents.sealing.live_keyring import LiveKeyring

BACKENDS = False
WAIT = 20.0


class Manager:
    """A secrets manager that counts its calls."""

    def __init__(self, *keys: str) -> None:
        self.keys: Any = list(keys)
        self.calls = 0

    def __call__(self) -> Any:
        """Returns the keys, or raises."""
        self.calls += 1
        if isinstance(self.keys, Exception):
            raise self.keys
        return self.keys


class Seconds:
    """A clock that is set forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The moment."""
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    """Time, as the test sets it."""
    return Seconds()


@pytest.fixture
def manager(key: str) -> Manager:
    """What has the key."""
    return Manager(key)


@pytest.fixture
def live(manager: Manager, seconds: Seconds) -> LiveKeyring:
    """The manager's keys."""
    return LiveKeyring(KeySource(manager, seconds))


@pytest.fixture
def served(settings: dict[str, Any], manager: Manager, clock: Clock) -> Iterator[Pipelit]:
    """A Pipelit whose keys the manager has."""
    with Pipelit(**settings | {"encryption_keys": manager}, clock=clock) as made:
        yield made


def test_it_is_asked_at_the_first_use_and_once(
    pipelit: Pipelit, served: Pipelit, manager: Manager
) -> None:
    """Not while a Pipelit is made; then its keys are used like a list of keys."""
    pipelit.credentials.put("openai", "sk-live-1234567890", kind="llm", created_by="alice")
    assert manager.calls == 0
    assert opened(served, "openai") == "sk-live-1234567890"
    served.credentials.put("other", "sk-live-0987654321", kind="llm", created_by="alice")
    assert opened(pipelit, "other") == "sk-live-0987654321"
    assert served.keys.status().older == 0
    assert manager.calls == 2  # at the first use, and by the status, which wants to know


def test_a_new_key_is_found_when_something_does_not_open(
    pipelit: Pipelit, served: Pipelit, manager: Manager, settings: dict[str, Any]
) -> None:
    """Another process has the new key first: its credentials and proofs are decrypted here."""
    pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes")
    pipelit.credentials.put("openai", "sk-live-1234567890", kind="llm", created_by="alice")
    assert opened(served, "openai")
    newer = Keyring.generate_key()
    manager.keys = [newer, *manager.keys]
    with Pipelit(**settings | {"encryption_keys": manager.keys}) as first:
        first.keys.rotate()
        first.credentials.put("openai", "sk-live-new-123456", kind="llm", created_by="alice")
    manager.keys = [newer]
    calls = manager.calls
    assert opened(served, "openai") == "sk-live-new-123456"
    assert served.agent("agent_writer").totp_code().code
    served.credentials.put("openai", "sk-live-newest-123", kind="llm", created_by="alice")
    assert manager.calls == calls + 1
    with Pipelit(**settings | {"encryption_keys": [newer]}) as alone:
        assert opened(alone, "openai") == "sk-live-newest-123"


def test_a_rotation_asks_first(pipelit: Pipelit, served: Pipelit, manager: Manager) -> None:
    """It encrypts under the newest key that exists, not under the newest that was known."""
    pipelit.credentials.put("openai", "sk-live-1234567890", kind="llm", created_by="alice")
    assert opened(served, "openai")
    manager.keys = [Keyring.generate_key(), *manager.keys]
    assert served.keys.rotate().resealed == 2
    manager.keys = RuntimeError("down")
    with pytest.raises(EncryptionKeysUnavailable):
        served.keys.rotate()
    assert opened(served, "openai") == "sk-live-1234567890"


def test_sealed_checkpoints_follow_the_function(
    pipelit: Pipelit, served: Pipelit, manager: Manager, settings: dict[str, Any]
) -> None:
    """The keys that are derived for them are those of the keys that are there now."""
    saver = InMemorySaver()
    sealed = served.sealed_saver(saver)
    checkpoint(sealed)
    manager.keys = [Keyring.generate_key(), *manager.keys]
    with Pipelit(**settings | {"encryption_keys": manager.keys}) as first:
        checkpoint(first.sealed_saver(saver))
    assert len(list(sealed.list(None))) > 2


@pytest.mark.parametrize("use", ["unseal", "require_opening", "is_newest", "renew", "macs"])
def test_a_value_that_never_opens_makes_it_ask_less_and_less(
    live: LiveKeyring, manager: Manager, seconds: Seconds, use: str
) -> None:
    """Anyone who can write a row may put one there: a thousand reads in a minute ask 6 times."""
    foreign = Keyring(Keyring.generate_key()).seal("x", "p")
    assert live.unseal(live.seal("x", "p"), "p") == b"x"
    for _ in range(1000):
        if use == "macs":
            assert "tag" not in list(live.macs("label"))
        elif use == "is_newest":
            assert not live.is_newest(foreign)
        else:
            with pytest.raises(UnsealError):
                getattr(live, use)(*[foreign, "p"][: 1 + (use == "unseal")])
        seconds.now += 0.06
    assert manager.calls == 1 + 6
    for _ in range(240):
        assert not live.is_newest(foreign)
        seconds.now += 1
    assert manager.calls <= 1 + 6 + 4
    # And a new key is there in a minute all the same.
    newer = Keyring.generate_key()
    manager.keys = [newer, *manager.keys]
    seconds.now += 60
    assert live.is_newest(Keyring(newer).seal("x", "p"))


def test_it_is_asked_again_after_five_minutes(
    live: LiveKeyring, manager: Manager, seconds: Seconds
) -> None:
    """Who only writes would stay with the old key; a failure then changes nothing."""
    assert len(live) == 1
    newer = Keyring.generate_key()
    manager.keys = [newer, *manager.keys]
    seconds.now += 299
    assert (len(live), manager.calls) == (1, 1)
    seconds.now += 1
    assert Keyring(newer).unseal(live.seal("x", "p"), "p") == b"x"
    manager.keys = TimeoutError("slow")
    seconds.now += 300
    assert (len(live), manager.calls) == (2, 3)
    seconds.now += 200
    assert (len(live), manager.calls) == (2, 3)


@pytest.mark.parametrize(
    "form",
    [
        lambda key: key,
        lambda key: f"{key}\n,{Keyring.generate_key()}\n",
        lambda key: (key, f" {Keyring.generate_key()} "),
        lambda key: [SecretStr(key)],
        lambda key: (each for each in [key, ""]),
    ],
)
def test_what_it_may_return(key: str, form: Callable[[str], Any]) -> None:
    """A list of keys, newest first, or the setting's own form, as managers keep text."""
    ring = LiveKeyring(KeySource(lambda: form(key)))
    assert Keyring(key).unseal(ring.seal("x", "p"), "p") == b"x"


class ClientError(Exception):
    """As boto3's."""


class Ending(Exception):
    """Its text ends the process of whoever asks for it."""

    def __str__(self) -> str:
        """Raise."""
        raise SystemExit(3)


def failing(error: Exception) -> Callable[[], Any]:
    """A function that has keys in its frame, and fails."""

    def ask() -> Any:
        found = [Keyring.generate_key()]
        if found:
            raise error
        return found

    return ask


BAD = "k9Xw2QzL7mR4tYbN1vC8pA5sD3fG6hJ0kE2uW9oI4"


@pytest.mark.parametrize(
    ("ask", "says", "cause"),
    [
        (list, "no keys", ""),
        (lambda: ["", " "], "no keys", ""),
        (lambda: None, "NoneType", ""),
        (lambda: BAD.encode(), "bytes", ""),
        (lambda: {"key": BAD}, "dict", ""),
        (lambda: {BAD}, "a set, which has no order", ""),
        (lambda: frozenset({BAD}), "a set, which has no order", ""),
        (failing(Ending()), "failed (Ending)", "test_key_source.Ending"),
        (lambda: [BAD.encode()], "a key that is bytes", ""),
        (lambda: [Keyring.generate_key(), BAD], "key 2 of 2", ""),
        (lambda: BAD, "key 1 of 1", ""),
        (failing(ClientError(f"AccessDenied for {BAD}")), "failed (ClientError)", "AccessDenied"),
        (failing(KeyError(BAD[:16])), "failed (KeyError)", "KeyError"),
        (failing(TimeoutError("Read timed out")), "failed (TimeoutError)", "Read timed out"),
        (failing(ValueError(f"{BAD[:6]} is no {BAD[-9:]}=")), "failed (ValueError)", "is no"),
    ],
)
def test_its_failure_names_the_setting_and_tells_no_key(
    settings: dict[str, Any], ask: Callable[[], Any], says: str, cause: str
) -> None:
    """Neither the texts nor the frames of the error, nor its cause, hold a key or a part of one."""
    made = Pipelit(**settings | {"encryption_keys": ask})
    with pytest.raises(EncryptionKeysUnavailable) as refused:
        keyring_of(made)
    error: BaseException | None = refused.value
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith("encryption_keys: ")
    assert says in str(error)
    assert cause in str(error.__cause__ or "")
    seen = []
    while error is not None:
        trace = error.__traceback__
        seen += [str(error), repr(error), repr(error.args)]
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                seen += [repr(each) for each in trace.tb_frame.f_locals.values()]
            assert trace.tb_frame.f_code.co_name != "ask"
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    told = " ".join(seen)
    assert not any(BAD[at : at + 6] in told for at in range(len(BAD) - 6))


def test_a_failure_is_not_asked_for_again_at_once(
    manager: Manager, seconds: Seconds, key: str
) -> None:
    """A hundred requests while the manager is down are one call in a second; then it recovers."""
    live = LiveKeyring(KeySource(manager, seconds))
    manager.keys = OSError("down")
    for _ in range(100):
        with pytest.raises(EncryptionKeysUnavailable, match="OSError"):
            live.seal("x", "p")
        seconds.now += 0.001
    assert manager.calls == 1
    manager.keys = [key]
    seconds.now += 1
    assert live.seal("x", "p")


async def a_function() -> list[str]:
    """Asynchronous."""
    return []


class Asks:
    """Asynchronous when it is called."""

    async def __call__(self) -> list[str]:
        """Nothing."""
        return []


@pytest.mark.parametrize(
    "ask", [a_function, functools.partial(a_function), Asks(), functools.partial(Asks())]
)
def test_an_async_function_is_refused_in_words(settings: dict[str, Any], ask: Any) -> None:
    """At once, and not when the first key is needed."""
    with pytest.raises(ConfigurationError, match="synchronous"):
        Pipelit(**settings | {"encryption_keys": ask})


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_a_function_that_returns_a_coroutine_is_refused_too() -> None:
    """Its coroutine is closed, so Python doesn't warn that it was never awaited."""
    live = LiveKeyring(KeySource(lambda: a_function()))
    with pytest.raises(EncryptionKeysUnavailable, match="awaited"):
        live.seal("x", "p")
    del live
    gc.collect()


def test_one_thread_asks_and_the_others_wait(key: str) -> None:
    """Ten at once: one call, and all have the key."""
    calls, begun, go = [], threading.Event(), threading.Event()

    def ask() -> list[str]:
        calls.append(threading.get_ident())
        begun.set()
        assert go.wait(WAIT)
        return [key]

    live = LiveKeyring(KeySource(ask))
    done: list[str] = []
    threads = [threading.Thread(target=lambda: done.append(live.seal("x", "p"))) for _ in range(10)]
    for each in threads:
        each.start()
    assert begun.wait(WAIT)
    go.set()
    for each in threads:
        each.join(WAIT)
    assert (len(calls), len(done)) == (1, 10)


def test_others_wait_no_longer_than_they_have_to(
    live: LiveKeyring, manager: Manager, seconds: Seconds, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Without any keys until the patience ends; with keys they go on with those."""
    monkeypatch.setattr("pipelit_agents._key_source._PATIENCE", 0.05)
    monkeypatch.setattr("pipelit_agents._key_source._PATIENCE_WITH_KEYS", 0.05)
    begun, go = threading.Event(), threading.Event()

    def ask() -> list[str]:
        begun.set()
        assert go.wait(WAIT)
        return [key]

    source = KeySource(ask, seconds)
    ring = LiveKeyring(source)
    for known in (False, True):
        asking = threading.Thread(target=source.ask_again)
        asking.start()
        assert begun.wait(WAIT)
        if known:
            assert ring.seal("x", "p")
            with pytest.raises(UnsealError):
                ring.unseal("gAAAAA", "p")
        else:
            with pytest.raises(EncryptionKeysUnavailable, match="another thread"):
                ring.seal("x", "p")
        go.set()
        asking.join(WAIT)
        begun.clear()
        go.clear()


def test_nobody_waits_for_a_function_that_hangs_longer_than_the_patience(
    seconds: Seconds, key: str
) -> None:
    """However many come later: it is the patience with the function, and not of each caller."""
    begun, go = threading.Event(), threading.Event()
    hangs = [False]

    def ask() -> list[str]:
        if hangs[0]:
            begun.set()
            assert go.wait(WAIT)
        return [key]

    source, first = KeySource(ask, seconds), KeySource(ask, seconds)
    ring = LiveKeyring(source)
    assert ring.seal("x", "p")
    hangs[0] = True
    for each, after in ((source, 6.0), (first, 31.0)):
        begun.clear()
        go.clear()
        asking = threading.Thread(target=each.ask_again)
        asking.start()
        assert begun.wait(WAIT)
        seconds.now += after
        started = time.monotonic()
        for _ in range(20):
            if each is source:
                with pytest.raises(UnsealError):
                    ring.unseal("gAAAAA", "p")
            else:
                with pytest.raises(EncryptionKeysUnavailable, match="another thread"):
                    each.current()
        assert time.monotonic() - started < 4.0
        go.set()
        asking.join(WAIT)


def test_keys_that_change_while_they_are_counted_are_no_yes(
    pipelit: Pipelit, served: Pipelit, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is of one set of keys; that there are others by now is said."""
    pipelit.credentials.put("openai", "sk-live-1234567890", kind="llm", created_by="alice")
    manager.keys = [*manager.keys, Keyring.generate_key()]
    own, keyring = served.keys._own, keyring_of(served)

    def changing(ring: Keyring) -> Any:
        counted = own(ring)
        manager.keys = [Keyring.generate_key(), *manager.keys]
        keyring.ask_again()
        return counted

    with monkeypatch.context() as patched:
        patched.setattr(served.keys, "_own", changing)
        status = served.keys.status(checkpointers=[InMemorySaver()])
    assert (len(status.keys), status.older, status.older_can_go) == (2, 0, None)
    assert any("the keys changed during the count" in each for each in status.not_counted)
    assert served.keys.status(checkpointers=[InMemorySaver()]).older_can_go is False


def test_a_set_of_keys_is_refused_in_words(settings: dict[str, Any], key: str) -> None:
    """A set has no order, so the newest key is unknown."""
    with pytest.raises(ConfigurationError, match="which has no order"):
        Pipelit(**settings | {"encryption_keys": {key}})


def test_a_function_that_needs_its_own_pipelit_is_told(settings: dict[str, Any]) -> None:
    """It ends with an error, and not with a thread that waits for itself."""
    made: list[Pipelit] = []

    def ask() -> list[str]:
        return [keyring_of(made[0]).seal("x", "p")]

    made.append(Pipelit(**settings | {"encryption_keys": ask}))
    with pytest.raises(EncryptionKeysUnavailable) as refused:
        keyring_of(made[0])
    assert "uses the Pipelit" in str(refused.value.__cause__)


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_asks(key: str) -> None:
    """The child asks for itself, and waits for no thread that it hasn't."""
    begun, go = threading.Event(), threading.Event()
    main = threading.get_ident()

    def ask() -> list[str]:
        if threading.get_ident() != main:
            begun.set()
            assert go.wait(WAIT)
        return [key]

    source = KeySource(ask)
    asking = threading.Thread(target=source.ask_again)
    asking.start()
    assert begun.wait(WAIT)
    child = os.fork()
    if child == 0:
        os._exit(0 if len(LiveKeyring(source)) == 1 else 1)
    _, status = os.waitpid(child, 0)
    go.set()
    asking.join(WAIT)
    assert os.waitstatus_to_exitcode(status) == 0


def test_nothing_of_a_key_is_logged_or_shown(
    live: LiveKeyring,
    manager: Manager,
    seconds: Seconds,
    key: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A failed second call is a warning with the error's type; a repr calls nothing."""
    assert repr(live) == "LiveKeyring()"
    assert repr(live._source) == "KeySource()"
    assert manager.calls == 0
    assert live.seal("x", "p")
    manager.keys = ValueError(f"bad {key}")
    seconds.now += 300
    with caplog.at_level(logging.DEBUG):
        assert live.seal("x", "p")
    assert "ValueError" in caplog.text
    assert key[:8] not in caplog.text
