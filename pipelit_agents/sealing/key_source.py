"""Keys from a function, such as one that asks a secrets manager.

The function is called when the first key is needed, and again when something doesn't open under
the keys that are known: after a rotation. How often a value that never opens makes it ask is
bounded, as anyone who can write to the database may put one there.
"""

from __future__ import annotations

import inspect
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents._words import masked
from pipelit_agents.errors import ConfigurationError, EncryptionKeysUnavailable, UnsealError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["KeySource", "LiveKeyring"]

T = TypeVar("T")
_LOG: Final = logging.getLogger(__name__)
# Processes that only write would not notice a new key otherwise.
_OLDEST: Final = 300.0
# How long others wait for the one that asks: for the first keys, and for newer ones.
_PATIENCE: Final = 30.0
_PATIENCE_WITH_KEYS: Final = 5.0
_FAILED_FOR: Final = 1.0
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0


class KeySource:
    """What asks a function for the keys, and keeps them.

    Args:
        ask: Returns the keys, newest first.
        clock: Seconds that only go forward.

    Raises:
        ConfigurationError: The function is asynchronous.
    """

    def __init__(self, ask: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> None:
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
        """Make a lock of this process's own: the parent's may be held by a thread of the parent."""
        self._turn = threading.Lock()
        self._asking: int | None = None
        self._asking_since: float | None = None

    def current(self) -> Keyring:
        """The keys that are known; asked for where there are none, or they are old.

        Raises:
            EncryptionKeysUnavailable: There are none, and the function failed.
        """
        known = self._known
        if known is None:
            return self._first()
        now = self._clock()
        if now - self._asked_at >= _OLDEST and self._asking is None:
            self._look_again(known, now, patience=0.0)
        return self._known or known

    def ask_again(self) -> None:
        """Ask now, whatever is known.

        Raises:
            EncryptionKeysUnavailable: The function failed; what was known stays known.
        """
        with self._my_turn(_PATIENCE) as mine:
            if not mine:
                _give_up()
            self._take(self._asked())

    def again(self, seen: Keyring) -> bool:
        """Ask again, as something doesn't open under the keys that were seen.

        Returns:
            Whether there are others now.
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
            # Somebody else may have asked meanwhile.
            if not mine or self._known is not seen:
                return self._known is not seen
            if limited and now < self._next:
                return False
            found, kind, _ = self._answer()
            self._asked_at = now
            if found is None:
                _LOG.warning("encryption_keys: asking again failed (%s); the keys stay", kind)
            elif not found.has_the_keys_of(seen):
                self._take(found)
                return True
            if limited:
                # A value that never opens makes it ask less and less often.
                self._wait = min(max(_FIRST_WAIT, 2 * self._wait), _LONGEST_WAIT)
                self._next = now + self._wait
            return False

    def _first(self) -> Keyring:
        with self._my_turn(_PATIENCE) as mine:
            if not mine:
                _give_up()
            if self._known is None:
                failed = self._failed
                if failed and self._clock() - failed[0] < _FAILED_FOR:
                    _fail(*failed[1:])
                self._take(self._asked())
            assert self._known is not None  # noqa: S101 - for the type checker
            return self._known

    def _take(self, found: Keyring) -> None:
        self._known, self._failed = found, None
        self._asked_at, self._next, self._wait = self._clock(), 0.0, 0.0

    def _asked(self) -> Keyring:
        # What the function raised is gone here, and its frames with it: they may hold keys.
        found, kind, text = self._answer()
        if found is None:
            self._failed = (self._clock(), kind, text)
            _fail(kind, text)
        return found

    def _answer(self) -> tuple[Keyring | None, str, str]:
        try:
            return _keyring_of(self._ask()), "", ""
        except _Unfit as unfit:
            return None, "", str(unfit)
        except Exception as error:
            # Its text is somebody else's, and its class may be anything.
            return None, _kind_of(error), _text_of(error)

    @contextmanager
    def _my_turn(self, patience: float) -> Iterator[bool]:
        if self._asking == threading.get_ident():
            raise ConfigurationError(
                "encryption_keys: the function uses the Pipelit that it is to give the keys to"
            )
        # In a fork this is the child's own lock from the beginning, and so is what is released.
        turn = self._turn
        since = self._asking_since
        if since is not None:
            # The patience is with the function: it isn't longer for those who come later.
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


class LiveKeyring(Keyring):
    """The keys of a source as they are now, or keys derived from them.

    Args:
        source: Where the keys are from.
        labels: What the keys are derived for, one derivation after the other.
    """

    __slots__ = ("_kept", "_labels", "_source")

    def __init__(self, source: KeySource, *labels: str) -> None:
        self._source = source
        self._labels = labels
        self._kept: tuple[Keyring, Keyring] | None = None

    def _now(self) -> tuple[Keyring, Keyring]:
        """The keys of the source, and those that are derived from them."""
        root = self._source.current()
        kept = self._kept
        if kept is None or kept[0] is not root:
            derived = root
            for label in self._labels:
                derived = derived.derive(label)
            kept = self._kept = (root, derived)
        return kept

    # What the methods of a keyring use.
    _keys: Any = property(lambda self: self._now()[1]._keys)
    _fernet: Any = property(lambda self: self._now()[1]._fernet)
    _newest: Any = property(lambda self: self._now()[1]._newest)
    _origins: Any = property(lambda self: self._now()[1]._origins)

    def snapshot(self) -> Keyring:
        """The keys that are known now."""
        return self._now()[1]

    def ask_again(self) -> None:
        """Ask the function for the keys now."""
        self._source.ask_again()

    def unseal(self, token: str, purpose: str) -> bytes:
        """As :meth:`Keyring.unseal`; what doesn't open is tried under new keys, if there are."""
        return self._tried(lambda ring: ring.unseal(token, purpose))

    def require_opening(self, token: str) -> None:
        """As :meth:`Keyring.require_opening`, under new keys too."""
        self._tried(lambda ring: ring.require_opening(token))

    def renew(self, token: str) -> str:
        """As :meth:`Keyring.renew`, under new keys too."""
        return self._tried(lambda ring: ring.renew(token))

    def is_newest(self, token: str) -> bool:
        """As :meth:`Keyring.is_newest`, under new keys too."""
        _, ring = self._now()
        if ring.is_newest(token):
            return True
        try:
            self.require_opening(token)
        except UnsealError:
            return False
        return self._now()[1] is not ring and self._now()[1].is_newest(token)

    def macs(self, label: str, *parts: bytes) -> Iterator[str]:
        """As :meth:`Keyring.macs`; after those of the known keys, those of new ones."""
        root, ring = self._now()
        yield from ring.macs(label, *parts)
        # Who goes on asks for a tag that none of them has made.
        if self._source.again(root):
            yield from self._now()[1].macs(label, *parts)

    def derive(self, label: str) -> Keyring:
        """As :meth:`Keyring.derive`; the keys follow the source."""
        return LiveKeyring(self._source, *self._labels, label)

    def _tried(self, act: Callable[[Keyring], T]) -> T:
        root, ring = self._now()
        try:
            return act(ring)
        except UnsealError:
            if not self._source.again(root):
                raise
        return act(self._now()[1])

    def __repr__(self) -> str:
        # What shows it, a debugger or an error tracker, asks nobody.
        return "LiveKeyring()"


class _Unfit(Exception):
    """What the function returned, in words of ours; it holds nothing of it."""


def _keyring_of(answer: Any) -> Keyring:
    if inspect.isawaitable(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise _Unfit("it returned something to be awaited; give a synchronous function")
    if isinstance(answer, str):
        answer = re.split(r"[,\s]+", answer)
    if isinstance(answer, Set):
        raise _Unfit("it returned a set, which has no order; give a list of keys, newest first")
    if isinstance(answer, bytes | bytearray | Mapping) or not isinstance(answer, Iterable):
        raise _Unfit(f"it returned {type(answer).__name__}, not a list of keys, newest first")
    keys = [_text(each) for each in answer]
    keys = [each for each in keys if each]
    if not keys:
        raise _Unfit("it returned no keys")
    for position, key in enumerate(keys, 1):
        try:
            Keyring(key)
        except ConfigurationError:
            raise _Unfit(
                f"key {position} of {len(keys)} that it returned is not a Fernet key (32 bytes in "
                "URL-safe base64, 44 characters)"
            ) from None
    return Keyring(*keys)


def _text(key: Any) -> str:
    shown = getattr(key, "get_secret_value", None)
    found = shown() if callable(shown) else key
    if not isinstance(found, str):
        raise _Unfit(f"it returned a key that is {type(found).__name__}, not text")
    return found.strip()


def _kind_of(error: Exception) -> str:
    try:
        return f"{type(error).__module__}.{type(error).__qualname__}"
    except BaseException:
        return "Exception"


def _text_of(error: Exception) -> str:
    # Whatever making the text raises, SystemExit too, isn't what the function raised.
    try:
        return masked(str(error))
    except BaseException:
        return ""


def _fail(kind: str, text: str) -> NoReturn:
    what = f"the function failed ({kind.rpartition('.')[2]})" if kind else text
    failed = EncryptionKeysUnavailable(
        f"encryption_keys: {what}, so nothing can be sealed or opened"
    )
    if not kind:
        raise failed
    raise failed from RuntimeError(f"{kind}: {text}" if text else kind)


def _give_up() -> NoReturn:
    raise EncryptionKeysUnavailable(
        f"encryption_keys: another thread has waited for the function for {_PATIENCE:.0f} seconds; "
        "give its client a timeout of a few seconds"
    )


def _is_async(ask: Any) -> bool:
    while isinstance(ask, partial):
        ask = ask.func
    call = type(ask).__call__
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    return any(kind(each) for kind in kinds for each in (ask, call))
