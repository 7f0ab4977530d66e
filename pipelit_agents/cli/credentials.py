"""Commands about credentials. Secrets come from a prompt or standard input, never arguments."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer

from pipelit_agents._words import has_code_form, is_wordy
from pipelit_agents.cli._arguments import AsJson, Yes, example
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import print_wrapped, show
from pipelit_agents.cli.prompts import confirm, read_secret, read_secrets
from pipelit_agents.cli.tables import Column, columns_of, show_table
from pipelit_agents.errors import (
    CommonSecretWarning,
    ConfigurationError,
    InvalidUsername,
    ShortSecretWarning,
    UnknownAccountWarning,
    UserNotFound,
)
from pipelit_agents.protocol.usernames import OPERATOR

if TYPE_CHECKING:
    from pipelit_agents import CredentialInfo, Pipelit

__all__ = ["credentials"]

credentials: typer.Typer = typer.Typer(
    help="Store encrypted secrets, list them masked, delete them.", no_args_is_help=True
)

T = TypeVar("T")

Name = Annotated[str, typer.Argument(help="The credential's name.", metavar="NAME")]
Person = Annotated[
    str | None,
    typer.Option(
        help="The person whose own credential it is. By default, the shared credential is used."
    ),
]
_REPLACE: Final = (
    "the shell's history has it now, so replace it at its issuer. Type the new one at the prompt, "
    "or pipe it in"
)
_COLUMNS: Final = columns_of(
    Column("name", "id", head=True),
    "kind",
    Column("masked", title="secret"),
    "public",
    "created_by",
    Column("allow", title="who may open it"),
    Column("updated_at", "time"),
)
# The kinds of the documentation's examples.
_KINDS: Final = ("api-key", "http", "llm", "totp", "webhook")
# The least similarity of a word that somebody may have meant: `otp` of `totp`, `lmm` of `llm`.
_NEAR: Final = 0.65
# Exit codes; 2 means that a command was typed wrongly.
_FAILED: Final = 1
_UNTESTED: Final = 3
# Characters.
_MAX_NAME_LENGTH: Final = 64


@credentials.command(
    "put",
    epilog=example("credentials put openai --kind llm --created-by alice"),
    context_settings={"allow_extra_args": True},
)
@reporting
def put(
    name: Name,
    context: typer.Context,
    *,
    kind: Annotated[
        str,
        typer.Option(
            help="The use of the secret, in your own word, such as llm, api-key or http; totp is "
            "for the seed of an authenticator app."
        ),
    ],
    created_by: Annotated[str, typer.Option(help="The account that stores it, for the record.")],
    field: Annotated[
        list[str] | None,
        typer.Option(help="The name of a secret field, with its own prompt; may be repeated."),
    ] = None,
    public: Annotated[
        list[str] | None,
        typer.Option(help="A field that isn't secret, as key=value; may be repeated."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="An account that may open it; may be repeated. By default any account may."
        ),
    ] = None,
    person: Person = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt and store a secret under a name. An existing one is replaced.

    The secret is read from a hidden prompt, or from standard input: all of the input, or one line
    for each of several fields.
    """
    from pipelit_agents import Pipelit
    from pipelit_agents.credentials.leak_guard.recognition import is_token

    if context.args:
        raise ValueError(f"the secret isn't an argument: {_REPLACE}")
    _require_label("--kind", kind, "what the secret is used for, such as llm")
    _require_label("--created-by", created_by, "who stores the secret, such as alice")
    labels = [("NAME", name), *(("--allow", each) for each in allow or [])]
    for option, label in labels if person is None else [*labels, ("--person", person)]:
        # Account names may contain numbers, so only values with the form of a secret are refused.
        if is_token(label) or (has_code_form(label) and not is_wordy(label)):
            raise ValueError(
                f"{option} has the form of a secret, but it is stored and listed in clear text: "
                f"{_REPLACE}"
            )
    shown = _once("--public", [_pair(each) for each in public or []])
    fields = _once("--field", [(_field(each), f"Value of {each}") for each in field or []])
    value: str | dict[str, str]
    if fields:
        answers = read_secrets(list(fields.values()))
        value = {each: answers[prompt] for each, prompt in fields.items()}
    else:
        value = read_secret("Value")
    with Pipelit.from_env() as pipelit, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ShortSecretWarning)
        warnings.simplefilter("always", CommonSecretWarning)
        warnings.simplefilter("always", UnknownAccountWarning)
        info = pipelit.credentials.put(
            name,
            value,
            kind=kind,
            created_by=created_by,
            public=shown,
            allow=allow or None,
            person=person,
        )
        doubts = [] if as_json else list(_doubts(pipelit, info, created_by))
    if not as_json:
        for each in (*(str(each.message) for each in caught), *doubts):
            print_wrapped(f"warning: {each}", err=True)
    _show("Stored.", _fields(info), as_json=as_json)


@credentials.command("list", epilog=example("credentials list --person alice"))
@reporting
def list_credentials(
    *,
    kind: Annotated[str | None, typer.Option(help="Only credentials of this kind.")] = None,
    person: Annotated[
        str | None,
        typer.Option(
            help="The person whose own credentials are listed. By default, lists the shared ones."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the credentials, masked except for the last four characters.

    Credentials that no key can decrypt are listed too. You can replace or delete them.

    With --json, the list contains all fields except for the secrets, for an export.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = [
            _fields(info)
            for info in pipelit.credentials.list(kind=kind, person=person, unreadable=True)
        ]
        owners = 0 if as_json or person is not None else pipelit.credentials.count_owners()
    show_table(found, _COLUMNS, as_json=as_json, empty=_empty(kind, person))
    if owners:
        who = "1 person has" if owners == 1 else f"{owners:,} people have"
        print_wrapped(
            f"{who} own credentials, which this list leaves out. To list those of one person: "
            "pipelit-agents credentials list --person NAME"
        )


@credentials.command("show", epilog=example("credentials show openai"))
@reporting
def show_credential(name: Name, *, person: Person = None, as_json: AsJson = False) -> None:
    """Show one credential, masked."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.credentials.get(name, person=person, unreadable=True)
        _show("", _fields(found), as_json=as_json)


@credentials.command("test", epilog=example("credentials test openai --agent agent_lead"))
@reporting
def try_credential(
    name: Annotated[
        str,
        typer.Argument(
            help="The credential, or NAME:FIELD for one of several secrets.", metavar="NAME"
        ),
    ],
    *,
    agent: Annotated[
        str | None,
        typer.Option(help="The agent that opens it; needed if only certain accounts may."),
    ] = None,
    person: Person = None,
    timeout: Annotated[int, typer.Option(help="The time limit in seconds.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Ask a credential's service whether it accepts it.

    Exit code 0 means that it does, 1 that it doesn't or that its answer isn't about the credential,
    and 3 that there is no known way to test the credential. The service's answer is never shown.
    """
    import dataclasses

    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        handle = None if agent is None else pipelit.agent(agent)
        found = pipelit.credentials.test(name, agent=handle, person=person, timeout=timeout)
    show("", dataclasses.asdict(found), as_json=as_json)
    if not found.good:
        raise typer.Exit(_UNTESTED if found.outcome == "untested" else _FAILED)


@credentials.command("delete", epilog=example("credentials delete openai"))
@reporting
def delete(
    name: Annotated[
        str | None, typer.Argument(help="The credential's name.", metavar="NAME")
    ] = None,
    *,
    person: Person = None,
    every: Annotated[
        bool, typer.Option("--all", help="Delete all own credentials of --person.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete a credential, or all of one person's own credentials."""
    from pipelit_agents import Pipelit

    if every:
        if name is not None or person is None:
            raise ValueError("--all deletes the own credentials of one person: --all --person NAME")
        with Pipelit.from_env() as pipelit:
            pipelit.credentials.count(person=person)  # Requires that there is such a person.
            confirm(f"Delete all own credentials of {person}?", yes=yes)
            deleted = pipelit.credentials.delete_all(person=person)
        show("Done.", {"deleted": deleted, "person": person}, as_json=as_json)
        return
    if name is None:
        raise ValueError("name the credential to delete, or pass --all --person NAME")
    of = "" if person is None else f" of {person}"
    with Pipelit.from_env() as pipelit:
        # One that isn't there needs no confirmation, and one without its key can be deleted.
        with suppress(ConfigurationError):
            pipelit.credentials.get(name, person=person, unreadable=True)
        confirm(f"Delete the credential {name}{of}?", yes=yes)
        pipelit.credentials.delete(name, person=person)
    whose = {} if person is None else {"person": person}
    show("Done.", {"deleted": name} | whose, as_json=as_json)


def _show(title: str, fields: dict[str, object], *, as_json: bool) -> None:
    if not as_json:
        # JSON keeps the names of the attributes; people read labels.
        searched, unsearched = fields.pop("searched"), fields.pop("unsearched")
        if searched or unsearched:
            fields["searched for"] = searched
        if unsearched:
            fields["not searched for"] = unsearched
    show(title, fields, as_json=as_json)
    if not as_json and unsearched:
        typer.echo(
            "Values that are not searched for can leave a node. If one is a secret, store it in a "
            "separate field (--field) of at least 8 characters."
        )


def _doubts(pipelit: Pipelit, info: CredentialInfo, created_by: str) -> Iterator[str]:
    """Return what may be a typing error in the words that somebody chose freely."""
    if created_by != OPERATOR:
        try:
            pipelit.users.get(created_by)
        except (InvalidUsername, UserNotFound):
            yield f"--created-by names {created_by!r}, which isn't an account"
    if info.kind in _KINDS:
        return
    others = {
        each.kind
        for each in pipelit.credentials.list(person=info.person, unreadable=True)
        if each.name != info.name
    }
    # Only the kind `totp` changes what is done with a secret; `list --kind` selects by the others.
    kinds = {each.lower(): each for each in (*others, *_KINDS)}
    near = get_close_matches(info.kind.lower(), kinds, 1, _NEAR)
    if info.kind not in others and near:
        yield (
            f"no other credential has the kind {info.kind!r}: did you mean {kinds[near[0]]}? To "
            "change it, store the credential again"
        )


def _empty(kind: str | None, person: str | None) -> str:
    whose = "shared credentials" if person is None else f"own credentials of {person}"
    if kind is not None:
        return f"There are no {whose} of the kind {kind}."
    option = "" if person is None else f" --person {person}"
    return (
        f"There are no {whose}. Store one:\n"
        f"  pipelit-agents credentials put openai --kind llm --created-by alice{option}"
    )


def _fields(info: CredentialInfo) -> dict[str, object]:
    import dataclasses

    return dataclasses.asdict(info)


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(
            "--public takes key=value, such as base_url=https://…, but one has another form. If "
            f"that was the secret: {_REPLACE}"
        )
    try:
        return key, json.loads(value, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return key, value


def _field(name: str) -> str:
    if len(name) > _MAX_NAME_LENGTH or not name[:1].isalpha() or not is_wordy(name):
        raise ValueError(
            "--field takes a field's name, such as user or password, but one isn't a name "
            f"(letters, digits and _ . -). If that was the secret: {_REPLACE}"
        )
    return name


def _require_label(option: str, value: str, what: str) -> None:
    from pipelit_agents.credentials.leak_guard.recognition import is_token

    # It is stored and listed in clear text. Addresses and names in any language are accepted.
    plain = "".join("x" if c.isalpha() and not c.isascii() else c for c in value)
    if len(value) > _MAX_NAME_LENGTH or not is_wordy(plain.replace("@", " ")) or is_token(value):
        raise ValueError(
            f"{option} takes {what}, but the value isn't made of words. If that was the secret: "
            f"{_REPLACE}"
        )


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)


def _once(option: str, pairs: list[tuple[str, T]]) -> dict[str, T]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        second = next(at for at, key in enumerate(names) if key in names[:at])
        first = names.index(names[second])
        raise ValueError(
            f"{option} {second + 1} has the same name as {option} {first + 1}; use each name once"
        )
    return found
