"""Digest the form of a child, so that two spawn graphs in one node don't share records.

Two spawn graphs with the same name and lead may send the same request to the same agent, while
different graphs answer for it. The record of one must not be used for the other. The form consists
of names only. A new process therefore finds its records, and so does a new version in which limits,
texts or function bodies changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from langgraph.pregel import Pregel

from ..child import VerifiedChild
from ..remote import RemoteChild
from ..types import AnyGraph
from .internals import first_step

__all__ = ["code_of", "form_of", "form_of_function"]

_MAX_DEPTH: Final = 8


def form_of(child: AnyGraph | RemoteChild) -> bytes:
    """Return a digest of a child's graph name, node names and function names.

    Args:
        child: The child of the spawn node. For a remote child the digest covers URL and graph name.
    """
    return _digest(b"pipelit-agents/child-form/v1\0", _parts(child, 0))


def form_of_function(find: object) -> bytes:
    """Return a digest of the function that finds children: its name, and what a lambda does."""
    function = _unwrapped(find)
    return _digest(b"pipelit-agents/finder-form/v1\0", _function_parts(function, type(function)))


def _digest(label: bytes, parts: Iterator[str | bytes]) -> bytes:
    digest = hashlib.sha256(label)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def code_of(child: AnyGraph | RemoteChild) -> tuple[object, ...]:
    """Return the code objects of a child's nodes, for comparison within one process."""
    graph = child.graph if isinstance(child, VerifiedChild) else child
    if not isinstance(graph, Pregel):
        return (type(graph),)
    found: list[object] = []
    for name, node in sorted(graph.nodes.items()):
        function = _function_of(first_step(node.bound))
        found += [name, getattr(function, "__code__", function)]
    return tuple(found)


def _parts(child: AnyGraph | RemoteChild, depth: int) -> Iterator[str | bytes]:
    if isinstance(child, RemoteChild):
        yield from ("remote", str(child.url), str(child.graph))
        return
    graph = child.graph if isinstance(child, VerifiedChild) else child
    yield from ("graph", graph.get_name())
    for name, node in sorted(graph.nodes.items()):
        yield from ("node", name)
        inside = first_step(node.bound)
        if isinstance(inside, Pregel):
            if depth < _MAX_DEPTH:
                yield from _parts(inside, depth + 1)
            continue
        yield from _function_parts(_function_of(inside), type(inside))


def _function_parts(function: object, instead: type) -> Iterator[str | bytes]:
    yield str(getattr(function, "__qualname__", instead.__qualname__))
    code = getattr(function, "__code__", None)
    if getattr(function, "__name__", "") == "<lambda>" and code is not None:
        # All lambdas of one scope have the same name.
        yield code.co_code
        yield repr([each for each in code.co_consts if isinstance(each, str | int | bytes)])


def _function_of(runnable: object) -> object:
    return _unwrapped(getattr(runnable, "func", None) or getattr(runnable, "afunc", None))


def _unwrapped(function: object) -> object:
    for _ in range(_MAX_DEPTH):
        # A partial, a method or a wrapped function.
        inner = getattr(function, "func", None) or getattr(function, "__func__", None)
        inner = inner or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    return function
