"""Share compiled statements between the engines of a test process.

SQLAlchemy keeps them for each engine, and nearly every test makes an engine, so a tenth of the
tests' time went by compiling the same statements again. Engines whose dialects have the same
settings now share what they have compiled.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, util

# As many statements as a run has, so that none is compiled twice.
_SHARED: util.LRUCache[Any, Any] = util.LRUCache(5_000)


class _OfOneDialect:
    """The shared statements, under keys that name a dialect's settings instead of the dialect."""

    def __init__(self, dialect: Any) -> None:
        self._dialect = dialect
        self._settings: tuple[object, ...] | None = None

    def get(self, key: Any) -> Any:
        """Return the statement that was compiled for such a dialect, or None."""
        return _SHARED.get(self._shared(key))

    def __setitem__(self, key: Any, compiled: Any) -> None:
        """Keep a statement."""
        _SHARED[self._shared(key)] = compiled

    def clear(self) -> None:
        """Begin again, as `Engine.clear_compiled_cache` wants it."""
        _SHARED.clear()

    def _shared(self, key: Any) -> Any:
        if self._settings is None:
            # Nothing is compiled before the first connection, which sets the last of them.
            plain = (str, int, type(None))
            found = vars(self._dialect).items()
            simple = sorted((name, repr(each)) for name, each in found if isinstance(each, plain))
            version = getattr(self._dialect, "server_version_info", None)
            self._settings = (type(self._dialect), version, *simple)
        return self._settings, *key[1:]


class _Attribute:
    """The attribute of an engine that holds its statements, for which there is no public name."""

    def __get__(self, engine: Any, owner: object = None) -> Any:
        return self if engine is None else engine.__dict__["statements"]

    def __set__(self, engine: Any, value: Any) -> None:
        # An engine that keeps none has None. One that another was derived from hands on its own.
        if isinstance(value, util.LRUCache):
            value = _OfOneDialect(engine.dialect)
        engine.__dict__["statements"] = value


def share_compiled_statements() -> None:
    """Let each engine that is made from now on share them."""
    Engine._compiled_cache = _Attribute()  # type: ignore[assignment]
