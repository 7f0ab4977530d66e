"""The encryption keys that an application passes, as a list or as a function.

A function may ask a secrets manager. It is called when the first key is needed, and again when a
value can't be decrypted with the known keys, as after a rotation. A value that no key decrypts
calls it less and less often: anyone who can write to the database may store such a value.
"""

from __future__ import annotations

import inspect
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from typing import Final, NoReturn, TypeAlias

from pydantic import SecretStr

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._words import masked
from pipelit_agents.errors import ConfigurationError, EncryptionKeysUnavailable
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.live_keyring import LiveKeyring

__all__ = ["KeySource", "keyring_maker"]

# A function that returns the keys, in any of the forms that are documented or refused below.
Ask: TypeAlias = Callable[[], object]
_LOG: Final = logging.getLogger(__name__)
# Seconds after which the keys are read again. A process that only encrypts wouldn't notice new keys
# otherwise.
_MAX_AGE: Final = 300.0
# Seconds that other threads wait for the one that calls the function: without keys, and with keys.
_PATIENCE: Final = 30.0
_PATIENCE_WITH_KEYS: Final = 5.0
# Seconds for which a failure is repeated without calling the function again.
_FAILURE_TTL: Final = 1.0
# Seconds between two calls that values which can't be decrypted cause: the first, and the longest.
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0


class KeySource:
    """Calls a function for the keys, and keeps them.

    Args:
        ask: Returns the keys, newest first.
        clock: A monotonic clock, seconds.

    Raises:
        ConfigurationError: The function is asynchronous.
    """

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        if _is_async(ask):
            raise ConfigurationError(
                "encryption_keys: the function is async, and keys are needed in synchronous code "
                "too. Give a synchronous function, for example one that calls the synchronous "
                "client of your secrets manager"
            )
        self._ask = ask
        self._clock = clock
        self._known: Keyring | None = None
        self._asked_at = 0.0
        self._next = self._wait = 0.0
        self._failed: tuple[float, str, str] | None = None
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Replace the lock: a thread of the parent process may hold the old one."""
        self._turn = threading.Lock()
        self._asking: int | None = None
        self._asking_since: float | None = None

    def current(self) -> Keyring:
        """Return the known keys; call the function if there are none, or they are old.

        Raises:
            EncryptionKeysUnavailable: There are none, and the function failed.
        """
        known = self._known
        if known is None:
            return self._first()
        now = self._clock()
        if now - self._asked_at >= _MAX_AGE and self._asking is None:
            self._look_again(known, now, patience=0.0)
        return self._known or known

    def ask_again(self) -> None:
        """Call the function now, also if keys are known.

        Raises:
            EncryptionKeysUnavailable: The function failed; the known keys are kept.
        """
        with self._my_turn(_PATIENCE) as mine:
            if not mine:
                _give_up()
            self._take(self._asked())

    def again(self, seen: Keyring) -> bool:
        """Call the function again, because a value can't be decrypted with the keys in ``seen``.

        Returns:
            Whether there are other keys now.
        """
        if self._known is not seen:
            return True
        return self._look_again(seen, self._clock(), patience=_PATIENCE_WITH_KEYS, limited=True)

    def _look_again(
        self, seen: Keyring, now: float, *, patience: float, limited: bool = False
    ) -> bool:
        if (limited and now < self._next) or self._asking == threading.get_ident():
            return False
        with self._my_turn(patience) as mine:
            # Another thread may have called the function meanwhile.
            if not mine or self._known is not seen:
                return self._known is not seen
            if limited and now < self._next:
                return False
            found, kind, _ = self._answer()
            self._asked_at = now
            if found is None:
                _LOG.warning(
                    "encryption_keys: reading them again failed (%s); the known keys are kept", kind
                )
            elif not found.has_the_keys_of(seen):
                self._take(found)
                return True
            if limited:
                # A value that no key decrypts calls the function less and less often.
                self._wait = min(max(_FIRST_WAIT, 2 * self._wait), _LONGEST_WAIT)
                self._next = now + self._wait
            return False

    def _first(self) -> Keyring:
        with self._my_turn(_PATIENCE) as mine:
            if not mine:
                _give_up()
            if self._known is None:
                failed = self._failed
                if failed and self._clock() - failed[0] < _FAILURE_TTL:
                    _fail(*failed[1:])
                self._take(self._asked())
            assert self._known is not None  # noqa: S101 - for the type checker
            return self._known

    def _take(self, found: Keyring) -> None:
        self._known, self._failed = found, None
        self._asked_at, self._next, self._wait = self._clock(), 0.0, 0.0

    def _asked(self) -> Keyring:
        # The exception isn't kept: its frames may hold keys.
        found, kind, text = self._answer()
        if found is None:
            self._failed = (self._clock(), kind, text)
            _fail(kind, text)
        return found

    def _answer(self) -> tuple[Keyring | None, str, str]:
        try:
            return _keyring_of(self._ask()), "", ""
        except _UnusableAnswer as unusable:
            return None, "", str(unusable)
        except Exception as error:
            # Both its text and its class are foreign.
            return None, _kind_of(error), _text_of(error)

    @contextmanager
    def _my_turn(self, patience: float) -> Iterator[bool]:
        if self._asking == threading.get_ident():
            raise ConfigurationError(
                "encryption_keys: the function uses the Pipelit that it returns the keys for"
            )
        # Kept in a variable: a fork replaces the attribute, and this lock must be released.
        turn = self._turn
        since = self._asking_since
        if since is not None:
            # Counted from the beginning of the call, so later threads don't wait longer.
            patience = max(0.0, min(patience, patience - (self._clock() - since)))
        mine = turn.acquire(timeout=patience) if patience else turn.acquire(blocking=False)
        if not mine:
            yield False
            return
        try:
            self._asking, self._asking_since = threading.get_ident(), self._clock()
            yield True
        finally:
            self._asking = self._asking_since = None
            turn.release()

    def __repr__(self) -> str:
        return "KeySource()"


def keyring_maker(
    encryption_keys: Sequence[str] | Callable[[], Sequence[str] | str],
) -> Callable[[], Keyring]:
    """Return a function that makes the keyring when the first key is needed.

    Args:
        encryption_keys: A list of keys, newest first, or a function that returns one.

    Raises:
        ConfigurationError: It is neither, or has no order.
    """
    if callable(encryption_keys):
        live = LiveKeyring(KeySource(encryption_keys))
        return lambda: live
    if isinstance(encryption_keys, bytes):
        raise ConfigurationError("encryption_keys is bytes: pass a list of text, [key.decode()]")
    if isinstance(encryption_keys, str) or not isinstance(encryption_keys, Iterable):
        raise ConfigurationError(
            "encryption_keys is a list of keys, newest first, or a function that returns one"
        )
    if isinstance(encryption_keys, Set):
        raise ConfigurationError(
            "encryption_keys is a set, which has no order: pass a list of keys, newest first"
        )
    keys = tuple(encryption_keys)
    for position, key in enumerate(keys, 1):
        if not isinstance(key, str):
            raise ConfigurationError(
                "encryption_keys must be a list of text, newest first, and its item "
                f"{position} is {type(key).__name__}"
            )
    # Tracebacks can display variables of closures, so the keys are hidden in them.
    hidden = tuple(map(SecretStr, keys))
    return lambda: Keyring(*[each.get_secret_value() for each in hidden])


class _UnusableAnswer(Exception):
    """Why the function's answer can't be used; its text contains nothing of the answer."""


def _keyring_of(answer: object) -> Keyring:
    if inspect.isawaitable(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise _UnusableAnswer("it returned something to be awaited; give a synchronous function")
    if isinstance(answer, str):
        answer = re.split(r"[,\s]+", answer)
    if isinstance(answer, Set):
        raise _UnusableAnswer(
            "it returned a set, which has no order; give a list of keys, newest first"
        )
    if isinstance(answer, bytes | bytearray | Mapping) or not isinstance(answer, Iterable):
        raise _UnusableAnswer(
            f"it returned {type(answer).__name__}, not a list of keys, newest first"
        )
    keys = [_text(each) for each in answer]
    keys = [each for each in keys if each]
    if not keys:
        raise _UnusableAnswer("it returned no keys")
    for position, key in enumerate(keys, 1):
        try:
            Keyring(key)
        except ConfigurationError:
            raise _UnusableAnswer(
                f"key {position} of {len(keys)} that it returned is not a Fernet key (32 bytes in "
                "URL-safe base64, 44 characters)"
            ) from None
    return Keyring(*keys)


def _text(key: object) -> str:
    shown = getattr(key, "get_secret_value", None)
    found = shown() if callable(shown) else key
    if not isinstance(found, str):
        raise _UnusableAnswer(f"it returned a key that is {type(found).__name__}, not text")
    return found.strip()


def _kind_of(error: Exception) -> str:
    try:
        return f"{type(error).__module__}.{type(error).__qualname__}"
    except BaseException:
        return "Exception"


def _text_of(error: Exception) -> str:
    # str() may raise anything, SystemExit too. That isn't what the function raised.
    try:
        return masked(str(error))
    except BaseException:
        return ""


def _fail(kind: str, text: str) -> NoReturn:
    what = f"the function failed ({kind.rpartition('.')[2]})" if kind else text
    failed = EncryptionKeysUnavailable(
        f"encryption_keys: {what}, so nothing can be encrypted or decrypted"
    )
    if not kind:
        raise failed
    raise failed from RuntimeError(f"{kind}: {text}" if text else kind)


def _give_up() -> NoReturn:
    raise EncryptionKeysUnavailable(
        f"encryption_keys: another thread has waited for the function for {_PATIENCE:.0f} seconds; "
        "give its client a timeout of a few seconds"
    )


def _is_async(ask: object) -> bool:
    while isinstance(ask, partial):
        ask = ask.func
    call = type(ask).__call__
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    return any(kind(each) for kind in kinds for each in (ask, call))
