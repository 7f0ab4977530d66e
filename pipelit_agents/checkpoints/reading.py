"""Read from the saver below: close its iterators, and name the checkpoint in errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager

from langchain_core.runnables import RunnableConfig

from pipelit_agents.checkpoints.cipher import ids_of
from pipelit_agents.errors import UnsealError

__all__ = ["aclosing", "closing", "describe", "reading"]


def describe(config: RunnableConfig) -> str:
    """Name the checkpoint of a configuration, for errors."""
    thread, _, checkpoint = ids_of(config)
    which = f"checkpoint {checkpoint!r:.80}" if checkpoint else "the newest checkpoint"
    return f"{which} of thread {thread!r:.80}"


@contextmanager
def closing(found: Iterator[object]) -> Iterator[None]:
    """Close an iterator at the end if it is a generator; a saver may return any iterator."""
    try:
        yield
    finally:
        if isinstance(found, Generator):
            found.close()


@asynccontextmanager
async def aclosing(found: AsyncIterator[object]) -> AsyncIterator[None]:
    """As ``closing``."""
    try:
        yield
    finally:
        if isinstance(found, AsyncGenerator):
            await found.aclose()


@contextmanager
def reading(where: list[str]) -> Iterator[None]:
    """Name the checkpoint in errors: ``where[0]``, in its state when the error occurs."""
    try:
        yield
    except UnsealError as error:
        raise UnsealError(f"{where[0]}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UnsealError(f"{where[0]} is malformed ({type(error).__name__})") from error
