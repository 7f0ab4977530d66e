"""Commands about credentials. Secrets are read from a prompt or standard input, never arguments."""

from __future__ import annotations

import json
import warnings
from typing import Annotated, Any, Final, TypeVar

import typer

from pipelit_agents._words import has_code_form, is_wordy
from pipelit_agents.cli._io import (
    AsJson,
    Yes,
    confirm,
    read_secret,
    read_secrets,
    reporting,
    show,
    show_table,
)
from pipelit_agents.credentials.leak_guard.recognition import is_token
from pipelit_agents.errors import CommonSecretWarning, ShortSecretWarning

__all__ = ["credentials"]

credentials = typer.Typer(help="Sealed secrets: put, list masked, delete.", no_args_is_help=True)

T = TypeVar("T")

Name = Annotated[str, typer.Argument(help="The credential's name.")]
_REPLACE: Final = (
    "the shell's history has it now, so replace it where it is from. Type the new one at the "
    "prompt, or pipe it in"
)
_LONGEST_NAME: Final = 64


@credentials.command("put", context_settings={"allow_extra_args": True})
@reporting
def put(
    name: Name,
    context: typer.Context,
    *,
    kind: Annotated[str, typer.Option(help="What it is for, such as llm.")],
    created_by: Annotated[str, typer.Option(help="Who puts it there, for the record.")],
    field: Annotated[
        list[str] | None,
        typer.Option(help="A field of several, asked for one by one; may be repeated."),
    ] = None,
    public: Annotated[
        list[str] | None,
        typer.Option(help="A field that is no secret, as key=value; may be repeated."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="An account that alone may open it; may be repeated. By default any."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Seal a secret under a name; what stood there is replaced.

    The secret is read from a hidden prompt, or from standard input: all of it, or with several
    fields a line for each.
    """
    from pipelit_agents import Pipelit

    if context.args:
        raise ValueError(f"the secret isn't an argument: {_REPLACE}")
    _require_label("--kind", kind, "what it is for, such as llm")
    _require_label("--created-by", created_by, "who puts it there, such as alice")
    for option, label in (("NAME", name), *(("--allow", each) for each in allow or [])):
        # The names of accounts may have numbers, so only what is known as a secret is refused.
        if is_token(label) or (has_code_form(label) and not is_wordy(label)):
            raise ValueError(
                f"{option} has the form of a secret, and it is shown to everybody: {_REPLACE}"
            )
    shown = _once("--public", [_pair(each) for each in public or []])
    fields = _once("--field", [(_field(each), f"Value of {each}") for each in field or []])
    value: str | dict[str, str]
    if fields:
        given = read_secrets(list(fields.values()))
        value = {each: given[prompt] for each, prompt in fields.items()}
    else:
        value = read_secret("Value")
    with Pipelit.from_env() as pipelit, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ShortSecretWarning)
        warnings.simplefilter("always", CommonSecretWarning)
        info = pipelit.credentials.put(
            name, value, kind=kind, created_by=created_by, public=shown, allow=allow or None
        )
    if not as_json:
        for each in said:
            typer.echo(f"warning: {each.message}", err=True)
    _show("Sealed.", _fields(info), as_json=as_json)


@credentials.command("list")
@reporting
def list_credentials(
    *,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the credentials, masked all but the last four characters."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = [_fields(info) for info in pipelit.credentials.list(kind=kind)]
    columns = ("name", "kind", "masked", "public", "created_by", "allow", "updated_at")
    show_table(found, columns, as_json=as_json)


@credentials.command("show")
@reporting
def show_credential(name: Name, *, as_json: AsJson = False) -> None:
    """Show one credential, masked."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        _show("", _fields(pipelit.credentials.get(name)), as_json=as_json)


@credentials.command("delete")
@reporting
def delete(name: Name, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a credential."""
    from pipelit_agents import Pipelit

    confirm(f"Delete the credential {name}?", yes=yes)
    with Pipelit.from_env() as pipelit:
        pipelit.credentials.delete(name)
    show("Done.", {"deleted": name}, as_json=as_json)


def _show(title: str, fields: dict[str, Any], *, as_json: bool) -> None:
    if not as_json:
        # JSON has the names of the attributes, a person reads words.
        searched, unsearched = fields.pop("searched"), fields.pop("unsearched")
        if searched or unsearched:
            fields["searched for"] = searched
        if unsearched:
            fields["not searched for"] = unsearched
    show(title, fields, as_json=as_json)
    if not as_json and unsearched:
        typer.echo(
            "What is not searched for can leave a node. If it is a secret, store it in a field of "
            "its own (--field) of at least 8 characters."
        )


def _fields(info: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(info)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(
            "--public takes key=value, such as base_url=https://…, and one is given without it. "
            f"If that was the secret: {_REPLACE}"
        )
    try:
        return key, json.loads(value, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return key, value


def _field(name: str) -> str:
    if len(name) > _LONGEST_NAME or not name[:1].isalpha() or not is_wordy(name):
        raise ValueError(
            "--field takes a field's name, such as user or password, and one that is given is no "
            f"name (letters, digits and _ . -). If that was the secret: {_REPLACE}"
        )
    return name


def _require_label(option: str, value: str, what: str) -> None:
    # Stored in clear and listed. Addresses and names in any language are fine.
    plain = "".join("x" if c.isalpha() and not c.isascii() else c for c in value)
    if len(value) > _LONGEST_NAME or not is_wordy(plain.replace("@", " ")) or is_token(value):
        raise ValueError(
            f"{option} takes {what}, and what is given are no words. If that was the secret: "
            f"{_REPLACE}"
        )


def _no_json(constant: str) -> Any:
    raise ValueError(constant)


def _once(option: str, pairs: list[tuple[str, T]]) -> dict[str, T]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        second = next(at for at, key in enumerate(names) if key in names[:at])
        first = names.index(names[second])
        raise ValueError(
            f"{option} {second + 1} has the name of {option} {first + 1}; give each name once"
        )
    return found
