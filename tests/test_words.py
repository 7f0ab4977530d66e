"""The words of the source: each has one meaning, and is the field's."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

# What was said once, and what is said instead.
INSTEAD = {
    r"anew": "again",
    r"mend(s|ed|ing)?": "fix",
    r"needles?": "patterns",
    r"insides": "contents",
    r"_BrokeOff": "NoEnvelope",
    r"_Overstayed": "ChildTimeout",
    r"NotLetIn": "ServerUnauthorized",
    r"Unfit": "UnexpectedStatus",
    r"_Exits": "MaskedChildErrors",
    r"_wordless": "_masked_error",
    r"_SHOWN_FOR": "POSSESSION_TTL",
    r"_HEAD_START": "POSSESSION_PREFETCH_TIMEOUT",
    r"_TOLD": "MAX_LISTED_FAILURES",
    r"BeginsAnew": "ForkAware",
    r"nobody says yes": "the command can't tell",
    r"is told": "receives",
    r"(?<!\w )who has": "anyone who has",
}
FOLDERS = ("pipelit_agents", "graphs", "tools")


@pytest.mark.parametrize("word", INSTEAD)
def test_no_source_says_it(word: str) -> None:
    """Neither names nor messages nor comments have a word that was replaced."""
    found = []
    pattern = re.compile(rf"\b{word}\b", re.IGNORECASE if word.islower() else 0)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if pattern.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found, f"say {INSTEAD[word]!r}: {found}"
