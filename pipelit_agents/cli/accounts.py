"""Commands about accounts: ``users`` and ``agents``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, cast

import typer

from pipelit_agents.cli._arguments import AsJson, ExpiresIn, Name, Yes, duration, example, expiry
from pipelit_agents.cli.api_keys import keys
from pipelit_agents.cli.failures import reporting
from pipelit_agents.cli.output import hand_over, print_wrapped, show
from pipelit_agents.cli.prompts import confirm, read_secret
from pipelit_agents.cli.tables import Column, columns_of, show_table

if TYPE_CHECKING:
    from pipelit_agents import User

__all__ = ["agents", "users"]

users: typer.Typer = typer.Typer(help="Manage people: accounts and API keys.", no_args_is_help=True)
agents: typer.Typer = typer.Typer(
    help="Manage agent users: accounts that act with an API key and codes.", no_args_is_help=True
)
users.add_typer(keys, name="keys")
RoleName: TypeAlias = Literal["operator", "member"]
_USERNAME: Final = Column("username", "id", head=True)
_COLUMNS: Final = columns_of(
    Column("owner", "id"),
    "purpose",
    Column("active", usual="yes"),
    Column("created_at", "time"),
)
# People have no owner and no purpose, which goes without saying.
_ALL_COLUMNS: Final = columns_of(
    _USERNAME,
    "kind",
    Column("owner", "id", blank="none"),
    Column("purpose", blank="none"),
    *_COLUMNS[2:],
)
_LANES: Final = columns_of(
    Column("lane", "id", head=True),
    "about",
    "failures",
    Column("locked_until", "time"),
    Column("allowance_used", usual="no"),
    "clock_trouble",
)
# Of a person, these say nothing.
_OF_AGENTS: Final = frozenset({"owner", "root_owner", "purpose", "may_create_agents", "domain"})
_NO_ACCOUNT: Final = "There are no accounts yet. Create one:\n  pipelit-agents users create alice"
_NO_AGENT: Final = (
    "There are no agents yet. Create one:\n"
    "  pipelit-agents agents create agent_lead --owner alice --purpose research"
)
_NO_OPERATOR: Final = (
    "Nobody is an operator now, so the next person that is created becomes one. To choose one: "
    "pipelit-agents users role NAME operator"
)


@users.command("create", epilog=example("users create alice --role operator"))
@reporting
def create_user(
    username: Name,
    *,
    role: Annotated[
        RoleName | None,
        typer.Option(
            help="By default, operator if there is no operator yet, and otherwise member."
        ),
    ] = None,
    expires_in: ExpiresIn = None,
    as_json: AsJson = False,
) -> None:
    """Create a person's account, and show its API key once."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        new = pipelit.users.create(username, role=role, key_expires_at=expiry(expires_in))
    fields = {
        "username": new.username,
        "role": new.role,
        "api_key": new.api_key.get_secret_value(),
    }
    show("Created.", fields, as_json=as_json, once=["api_key"])


@users.command("list")
@reporting
def list_users(*, as_json: AsJson = False) -> None:
    """List all accounts of people and agents."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.users.list()
    if as_json:
        show_table(found, (), as_json=True)
        return
    # Only people have a role.
    rows = [asdict(each) | {"kind": each.role or each.kind} for each in found]
    show_table(rows, _ALL_COLUMNS, as_json=False, empty=_NO_ACCOUNT)


@users.command("role", epilog=example("users role bob operator"))
@reporting
def set_role(
    username: Name,
    role: Annotated[str, typer.Argument(help="operator or member.", metavar="ROLE")],
    *,
    as_json: AsJson = False,
) -> None:
    """Make a person an operator, who manages accounts in the API, or a member."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        user = pipelit.users.set_role(username, cast("RoleName", role))
        has_operator = pipelit.users.has_operator()
    show("Done.", {"username": user.username, "role": user.role}, as_json=as_json)
    if not has_operator and not as_json:
        print_wrapped(_NO_OPERATOR)


@agents.command(
    "create", epilog=example("agents create agent_lead --owner alice --purpose research")
)
@reporting
def create_agent(
    username: Name,
    *,
    owner: Annotated[str, typer.Option(help="The account that owns it.")],
    purpose: Annotated[str, typer.Option(help="The purpose of the agent, in a few words.")],
    may_create_agents: Annotated[
        bool | None,
        typer.Option(
            help="Whether it may create agents itself: --no-may-create-agents forbids it. By "
            "default, an agent that a person owns may."
        ),
    ] = None,
    expires_in: ExpiresIn = None,
    as_json: AsJson = False,
) -> None:
    """Create an agent user, and show its API key and its otpauth URI once."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        new = pipelit.users.create_agent(
            username,
            owner=owner,
            purpose=purpose,
            may_create_agents=may_create_agents,
            key_expires_at=expiry(expires_in),
        )
    fields = {
        "username": new.username,
        "api_key": new.api_key.get_secret_value(),
        "provisioning_uri": new.provisioning_uri.get_secret_value(),
    }
    show("Created.", fields, as_json=as_json, once=["api_key", "provisioning_uri"])


@agents.command("list", epilog=example("agents list --owner alice"))
@reporting
def list_agents(
    *,
    owner: Annotated[
        str | None, typer.Option(help="Only agents that this account owns, directly or indirectly.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the agent users."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        everybody = pipelit.users.list(
            owner=None if owner is None else pipelit.users.get(owner).root_owner
        )
    found = [
        user
        for user in (everybody if owner is None else _owned_by(owner, everybody))
        if user.kind == "agent"
    ]
    empty = _NO_AGENT if owner is None else f"The account {owner} owns no agents."
    show_table(found, (_USERNAME, *_COLUMNS), as_json=as_json, empty=empty)


def _owned_by(owner: str, family: Sequence[User]) -> Iterator[User]:
    """Return the accounts that an account owns, directly or through agents that it owns."""
    owners = {owner}
    while more := {each.username for each in family if each.owner in owners} - owners:
        owners |= more
    return (each for each in family if each.username in owners - {owner})


@agents.command("rotate-totp", epilog=example("agents rotate-totp agent_lead --overlap 10m"))
@reporting
def rotate_totp(
    username: Name,
    *,
    overlap: Annotated[
        str,
        typer.Option(
            help="The time for which the old secret stays valid, such as 10m. By default, "
            "it becomes invalid at once."
        ),
    ] = "0s",
    as_json: AsJson = False,
) -> None:
    """Give an agent a new TOTP secret, and show its otpauth URI once."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        uri = pipelit.users.rotate_totp(username, overlap=duration("--overlap", overlap))
    fields = {"username": username, "provisioning_uri": uri.get_secret_value()}
    show("Rotated.", fields, as_json=as_json, once=["provisioning_uri"])


@agents.command("peering", epilog=example("agents peering agent_lead --domain acme"))
@reporting
def issue_peering(
    username: Name,
    *,
    domain: Annotated[str, typer.Option(help="Your name for the other domain.")],
    as_json: AsJson = False,
) -> None:
    """Issue an agent's secret for one other domain, and show its otpauth URI once.

    The other domain enrols the agent with: pipelit-agents agents enroll. A pipe receives only the
    URI.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        uri = pipelit.users.issue_peering(username, domain=domain)
    fields = {"username": username, "domain": domain, "peering_uri": uri.get_secret_value()}
    hand_over("Issued.", fields, "peering_uri", as_json=as_json)


@agents.command("enroll", epilog=example("agents enroll agent_acme --domain acme"))
@reporting
def enroll_peer(
    username: Name,
    *,
    domain: Annotated[str, typer.Option(help="Your name for the agent's domain.")],
    as_json: AsJson = False,
) -> None:
    """Enrol another domain's agent, so that its codes can be verified.

    The URI is read from a hidden prompt, or from standard input.
    """
    from pipelit_agents import Pipelit

    uri = read_secret("URI")
    with Pipelit.from_env() as pipelit:
        peer = pipelit.users.enroll_peer(uri, name=username, domain=domain)
    fields = {"username": peer.username, "kind": peer.kind, "domain": peer.domain}
    show("Enrolled.", fields, as_json=as_json)


@users.command("show", epilog=example("users show alice"))
@agents.command("show", epilog=example("agents show agent_lead"))
@reporting
def show_account(username: Name, *, as_json: AsJson = False) -> None:
    """Show one account."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        fields = asdict(pipelit.users.get(username))
    if not as_json and fields["kind"] == "human":
        fields = {name: value for name, value in fields.items() if name not in _OF_AGENTS}
    show("", fields, as_json=as_json)


@users.command("deactivate", epilog=example("users deactivate bob"))
@agents.command("deactivate", epilog=example("agents deactivate agent_lead"))
@reporting
def deactivate(username: Name, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Deactivate an account and all agents that it owns. This can't be undone."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        account = pipelit.users.get(username)
        confirm(f"Deactivate {username} and all agents that it owns? It can't be undone.", yes=yes)
        ended = pipelit.users.deactivate(username)
        # An agent has none.
        is_person = account.kind == "human"
        kept = pipelit.credentials.count(person=username) if is_person else 0
        has_operator = pipelit.users.has_operator()
    fields: dict[str, object] = {"deactivated": list(ended)}
    show("Done.", fields | ({"own_credentials": kept} if kept else {}), as_json=as_json)
    if kept and not as_json:
        typer.echo(
            f"The own credentials of {username} stay stored, and nobody can open them. List them: "
            f"pipelit-agents credentials list --person {username}. Delete them: "
            f"pipelit-agents credentials delete --all --person {username}"
        )
    if ended and not has_operator and not as_json:
        print_wrapped(_NO_OPERATOR)


@users.command("lanes", epilog=example("users lanes alice"))
@agents.command("lanes", epilog=example("agents lanes agent_lead"))
@reporting
def show_lanes(username: Name, *, as_json: AsJson = False) -> None:
    """List the lanes that count failed codes for an account, and their locks."""
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        found = pipelit.users.lanes(username)
    empty = f"No code of {username} has failed since the last right one."
    show_table(found, _LANES, as_json=as_json, empty=empty)


@users.command("unlock", epilog=example("users unlock alice"))
@agents.command("unlock", epilog=example("agents unlock agent_lead --lane others"))
@reporting
def unlock(
    username: Name,
    *,
    lane: Annotated[
        str | None,
        typer.Option(help="The lane to unlock, as listed by `lanes`. By default all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Unlock an account's lanes, so that its codes are verified again.

    A lane that has used up its wrong guesses for the year stays locked until its lock ends. The
    command also repairs entries that were written while the clock was ahead.
    """
    from pipelit_agents import Pipelit

    with Pipelit.from_env() as pipelit:
        locked = pipelit.users.unlock(username, lane=lane)
    fields: dict[str, str] = {"unlocked": username, **({"lane": lane} if lane else {})}
    if locked:
        # Not an error: the other lanes are unlocked, and this one unlocks by itself.
        fields["still_locked"] = ", ".join(
            f"{each.lane} until {each.locked_until:%Y-%m-%d %H:%M} UTC" for each in locked
        )
        fields["why"] = "the wrong guesses for the year are used up (see SECURITY.md, Limits)"
    show("Done.", fields, as_json=as_json)
