"""Tests use public names; the private ones that they still use are listed here.

An entry that isn't needed any more fails, so the list can only get shorter. If there is no public
way, put the access into ``support/internals.py`` instead of adding an entry.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import TESTS

# These only look private: `namedtuple`, `os` and notebooks document them.
DOCUMENTED = {"_exit", "_replace", "_repr_html_", "_repr_svg_"}
PRIVATE = re.compile(r"_[A-Za-z]\w*")
IN_A_PROGRAM = re.compile(r"(?<!self)(?<!cls)\.(_[a-z]\w*)")
# By file: what other than its own it uses.
USED: dict[str, set[str]] = {
    "audit/test_audit_chain.py": {"_seal_batch"},
    "audit/test_audit_numbers.py": {"_MAX_GAPS", "_proof_check"},
    "audit/test_refusals.py": {
        "_BURST",
        "_INTERVAL",
        "_SOURCE_BUDGET",
        "_kinds",
        "_sources",
    },
    "cli/test_cli.py": {"_words"},
    "credentials/leak_guard/test_doors.py": {"_Gate", "_tool_call_writer", "_tools"},
    "credentials/leak_guard/test_patterns.py": {"_basic_auth_str"},
    "credentials/leak_guard/test_surroundings.py": {"_InFrozenSlots__own"},
    "credentials/leak_guard/test_written_forms.py": {
        "_Reader",
        "_MAX_PARTS",
        "_of_a_text",
        "_thread",
        "_threads",
        "_WORKERS",
        "_url",
    },
    "credentials/test_given_to_nodes.py": {
        "_MAX_ALWAYS_SEARCHED",
        "_known",
        "_known_texts",
        "_shortest",
        "_shortest_texts",
    },
    "credentials/test_secret_scope.py": {"_run_context"},
    "credentials/test_ways_out.py": {"_kept"},
    "database/test_key_row.py": {"_signed"},
    "database/test_sealed_columns.py": {"_PAGE"},
    "database/test_storage.py": {"_database", "_opened", "_ready"},
    "graphs/spawn/test_possession.py": {"_threads"},
    "graphs/spawn/test_spawn.py": {"_on_another_loop"},
    "graphs/test_remote_trust.py": {"_TRUST", "_lock"},
    "graphs/test_values.py": {"_seen"},
    "identity/test_hostile_items.py": {"_run_context"},
    "identity/test_proof.py": {"_proof_request"},
    "ledger/test_clocks.py": {"_redis_url"},
    "ledger/test_questions.py": {"_askers", "_lock"},
    "ledger/test_redis_attacks.py": {"_script"},
    "middleware/test_middleware.py": {"_request"},
    "operations/test_rotation_columns.py": {"_PAGE", "_origins_in", "_swap"},
    "pages/test_logging_page.py": {"_hide_run_inputs"},
    "processes/test_durable.py": {"_epoch", "_keyring", "_make_keyring"},
    "processes/test_faults.py": {"_database", "_ledger"},
    "processes/test_forks.py": {"_ALIVE", "_THREADS_TIMEOUT", "_forks"},
    "processes/test_rotation.py": {"_KNOWN"},
    "processes/test_server.py": {"_failures", "_global_handlers"},
    "processes/test_shared_servers.py": {"_process"},
    "test_batching.py": {"_waiting"},
    "test_bounds.py": {"_bounds"},
    "test_discretion.py": {"_discretion"},
    "test_key_source.py": {"_PATIENCE", "_PATIENCE_WITH_KEYS", "_own", "_source"},
    "test_layout.py": {"_internal"},
    "test_twins.py": {"_opened"},
    "tools/test_tools_in_agents.py": {"_run"},
}


def names(file: Path) -> Iterator[str]:
    """Yield the private names that a file uses and doesn't define."""
    tree = ast.parse(file.read_text())
    found: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                own.add(name)
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name):
                own.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                own.add(name)
            case ast.ClassDef(name=name):
                own.add(name)
            case ast.Attribute(attr=name):
                found.add(name)
            case ast.ImportFrom(module=str(module), names=imported):
                found.update([*module.split("."), *(each.name for each in imported)])
            case ast.Call(args=[_, ast.Constant(value=str(name)), *_]):
                # As monkeypatch.setattr and getattr take it.
                found.add(name)
            case ast.Constant(value=str(text)) if re.fullmatch(r"[\w.]+\._\w+", text):
                # As monkeypatch.setattr takes it, too.
                found.add(text.rpartition(".")[2])
            case ast.Constant(value=str(text)) if "import " in text:
                # A program for another process.
                found.update(IN_A_PROGRAM.findall(text))
    yield from (each for each in found - own - DOCUMENTED if PRIVATE.fullmatch(each))


@pytest.mark.parametrize("file", sorted(TESTS.rglob("test_*.py")), ids=lambda file: file.stem)
def test_private_names_become_fewer(file: Path) -> None:
    """A test uses no private name that isn't listed, and what is listed is used."""
    listed = USED.get(str(file.relative_to(TESTS)), set())
    assert set(names(file)) == listed


def test_every_listed_file_is_there() -> None:
    """A file that was moved takes its entry with it."""
    assert all((TESTS / file).is_file() for file in USED)
