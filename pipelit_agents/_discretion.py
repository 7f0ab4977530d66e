"""Clear secrets from the frames of exceptions.

Error trackers, ``rich`` and loguru display the local variables of every frame of a traceback. A
function that takes or opens a secret has it in its variables, and so do the functions it calls.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["discreet"]

P = ParamSpec("P")
R = TypeVar("R")


def discreet(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that takes or opens secrets, so that its exceptions have empty frames.

    The traceback keeps its files, lines and functions. The arguments and local variables are
    cleared in all frames from this function down. The caller's variables are kept.

    Args:
        function: A function that is neither a coroutine function nor a generator function.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        handled = sys.exception()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            _clear(error, handled)
            raise
        finally:
            # This frame is part of the traceback too.
            del args, kwargs, handled

    return call


def _clear(error: BaseException | None, handled: BaseException | None) -> None:
    """Clear the frames of an exception and its chain, up to the one that was handled before."""
    waiting, seen = [error], {id(None), id(handled)}
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        for frame, _ in traceback.walk_tb(each.__traceback__):
            # A running frame belongs to the caller, and can't be cleared.
            with suppress(RuntimeError):
                frame.clear()
        waiting += [each.__cause__, each.__context__]
