"""Import the names of a package when they are first used, so that importing it stays fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["late"]


def late(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package.

    Assign them where type checkers don't look. Otherwise these would accept every name.

    Args:
        package: The package's ``__name__``.
        modules: For each name, the module below the package that has it.
    """
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = namespace[name] = getattr(import_module(f"{package}.{modules[name]}"), name)
        return found

    return get, lambda: sorted({*namespace, *namespace["__all__"]})
