"""Errors without the secrets that the failing function was given or has opened.

Error trackers, ``rich`` and loguru show the local variables of every frame of a traceback. A
function that takes or opens a secret has it in its variables, and so have those that it calls.
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
    """Decorate a function that takes or opens secrets: what it raises has empty frames.

    The traceback keeps its files, lines and functions; the local variables of all frames from this
    function down are gone, its arguments too. What the caller has in variables of its own stays.

    Args:
        function: No coroutine function and no generator function.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        handled = sys.exc_info()[1]
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            _clear(error, handled)
            raise
        finally:
            # This frame is part of the traceback.
            del args, kwargs, handled

    return call


def _clear(error: BaseException | None, handled: BaseException | None) -> None:
    """Clear the frames of an exception and its chain, up to what was handled before."""
    waiting, seen = [error], {id(None), id(handled)}
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        for frame, _ in traceback.walk_tb(each.__traceback__):
            # Those that still run are the caller's.
            with suppress(RuntimeError):
                frame.clear()
        waiting += [each.__cause__, each.__context__]
