"""The two kinds of short codes: their forms and how they are computed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from pipelit_agents.identity.evidence import TotpCode
from pipelit_agents.ledger.attempts import CodeKind
from pipelit_agents.otp import totp
from pipelit_agents.protocol.binding import CODE_SUITE, PERIOD, Binding

__all__ = ["other_kind", "refuse_holder", "short_codes"]

PLAIN_DIGITS: Final = 6
AUDIENCE_DIGITS: Final = 8
CODE_FORMS: Final[dict[CodeKind, re.Pattern[str]]] = {
    "plain": re.compile(r"[0-9]{6}\Z"),
    "audience": re.compile(r"[0-9]{8}\Z"),
}


def short_codes(
    key: bytes,
    steps: Sequence[int],
    prover: str,
    audience: str | None,
    relation: str = "",
    message: str | None = None,
) -> list[str]:
    """Return the code of each step: audience codes if there is an audience, else plain codes."""
    if audience is None:
        return [totp(key, step * PERIOD, digits=PLAIN_DIGITS) for step in steps]
    binding = Binding(
        role="audience-code",
        suite=CODE_SUITE,
        relation=relation,
        prover=prover,
        verifier=audience,
        kind="" if message is None else "message",
        payload=None if message is None else message.encode(),
    )
    return binding.answers(key, steps)


def other_kind(code: object, kind: CodeKind) -> str:
    """Describe an input that isn't a code of this kind."""
    if not isinstance(code, str):
        name = type(code).__name__
        return f" (not {name}{': await it' if name == 'coroutine' else ''})"
    if kind == "plain" and CODE_FORMS["audience"].match(code):
        return "; with 8 digits it is an audience code: leave kind out"
    if kind == "audience" and CODE_FORMS["plain"].match(code):
        return '; with 6 digits it is a plain code: kind="plain", or make one for an audience'
    return ""


def refuse_holder(code: object) -> None:
    """Refuse an object that holds a code, and say how to pass its text."""
    if isinstance(code, TotpCode | SecretStr):
        fix = ".code" if isinstance(code, TotpCode) else ".get_secret_value()"
        raise TypeError(f"code must be text, not {type(code).__name__}: pass its {fix}")
