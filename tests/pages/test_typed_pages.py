"""``make types`` checks the pages' blocks: these are the errors that it has to find."""

from __future__ import annotations

from pathlib import Path

import pytest
from typed_pages import check, modules_of

PAGE = """# Right, except for four lines

A file:

```python
# numbers_of.py
def double(number: int) -> int:
    return number * "2"
```

A program, in pieces:

```python
from numbers_of import double


class State:
    count: int = double(1)


count = State().count
```

```python
double("one")
seen = set()
seen.add(count)
```

It begins again:

```python
class State:
    name: str = "x"


State().name.upper()
State().count
absent
print(count + 1)
```
"""


@pytest.mark.process
def test_an_error_is_found_on_its_line(tmp_path: Path) -> None:
    """In a file, in a call, at a class that is defined again and at a name; nothing else is."""
    page = tmp_path / "right.md"
    page.write_text(PAGE)
    found = check([page], folder=tmp_path / "modules")
    assert [each.split(": error: ")[0] for each in sorted(found)] == [
        "right.md:25: block 3",
        "right.md:38: block 4",
        "right.md:39: block 4",
        "right.md:8: block 1",
    ]
    assert "[arg-type]" in sorted(found)[0]
    assert '"State" has no attribute "count"' in sorted(found)[1]


def test_what_is_beside_the_package_is_checked_there(tmp_path: Path) -> None:
    """Names of graphs and tools have their types only where they are in the repository."""
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nfrom pipelit_agents.graphs import ANYONE\n```\n")
    (code,) = modules_of(page).values()
    assert code.splitlines()[3] == "from graphs import ANYONE"
