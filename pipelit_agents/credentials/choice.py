"""Which credential of a name opens: the shared one, or the own one of the person who acts."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, TypedDict

from pipelit_agents._words import quoted, recordable
from pipelit_agents.credentials.whose import SHARED, SealedRow, Whose, not_found
from pipelit_agents.database.fast_path import Open
from pipelit_agents.errors import CredentialError, NobodyAuthenticated
from pipelit_agents.identity.acting import Claim, Standing, standing_of

__all__ = ["Actor", "Fallback", "Found", "Rule", "RuleArguments", "find", "rule"]

# What opens if there is no value of the person's own: nothing, or the shared one.
Fallback: TypeAlias = Literal["shared"] | None


class RuleArguments(TypedDict):
    """The two arguments of a method of ``Credentials``, for ``**``."""

    per_person: bool
    fallback: Fallback


class Rule(NamedTuple):
    """Which of the credentials of a name opens.

    Attributes:
        per_person: Whether it is the own one of the person for whom the code acts.
        fallback: What opens if nobody is authenticated, or if the person has none.
    """

    per_person: bool = False
    fallback: Fallback = None

    @property
    def arguments(self) -> RuleArguments:
        """The two arguments of a method of ``Credentials``."""
        return {"per_person": self.per_person, "fallback": self.fallback}


def rule(per_person: object, fallback: object) -> Rule:
    """Check the two arguments, and return them.

    Raises:
        TypeError: One is of another type, or there is a fallback without ``per_person``.
        ValueError: The fallback is another word.
    """
    rename = ". A secret can't be injected into a parameter of that name: rename the parameter"
    if not isinstance(per_person, bool):
        raise TypeError(f"per_person must be True or False, not {quoted(per_person)}{rename}")
    if fallback is None:
        return Rule(per_person)
    if not isinstance(fallback, str):
        raise TypeError(f'fallback must be "shared" or None, not {quoted(fallback)}{rename}')
    if fallback != "shared":
        raise ValueError(f'fallback must be "shared" or None, not {quoted(fallback)}{rename}')
    if not per_person:
        raise TypeError(
            "fallback is for per_person=True: without it, the shared credential opens in any case"
        )
    return Rule(per_person, "shared")


class Actor(NamedTuple):
    """For whom code acts, as read in the transaction of what it decides.

    Attributes:
        claim: Who is said to act, if anybody.
        standing: What is known about that name's account.
    """

    claim: Claim | None
    standing: Standing

    @classmethod
    def read(cls, connection: Open, claim: Claim | None) -> Actor:
        """Read the account of who is said to act."""
        return cls(claim, "unknown" if claim is None else standing_of(connection, claim.username))

    @property
    def person(self) -> str:
        """The active person for whom the code acts; empty if there is none."""
        claim = self.claim
        if claim is None or claim.ended or self.standing != "person":
            return ""
        return claim.username

    @property
    def recorded(self) -> str:
        """The name for the record of a refusal: also that of an account that may not act."""
        return "" if self.claim is None or self.standing == "unknown" else self.claim.username

    @property
    def is_nobody(self) -> bool:
        """Whether nobody is authenticated, and nothing is wrong about that.

        An application must not vouch for what is no person, and the run of a deactivated person
        and the threads of a block that has ended are not everybody's.
        """
        claim = self.claim
        return claim is None or not (
            claim.vouched or claim.ended or self.standing in ("person", "inactive")
        )

    @property
    def why_refused(self) -> str:
        """Why the code acts for no active person, for the audit."""
        if self.claim is None:
            return "nobody authenticated"
        return "acting_for has ended" if self.claim.ended else "not an active person"


class Found(NamedTuple):
    """A stored credential that may be opened, as far as the person is concerned.

    Attributes:
        whose: Whose it is.
        row: What is stored of it.
        note: ``shared`` if it is the fallback, for the audit.
    """

    whose: Whose
    row: SealedRow
    note: str


def find(connection: Open, name: str, which: Rule, actor: Actor) -> Found | CredentialError:
    """Return the credential of a name that is to be opened, or why there is none.

    Args:
        connection: The transaction in which it is opened.
        name: The credential.
        which: The shared one, or the person's own.
        actor: For whom the code acts.
    """
    if which.per_person and actor.person:
        own = Whose(actor.person)
        row = own.sealed(connection, name)
        if row is not None:
            return Found(own, row, "")
        if which.fallback is None:
            return not_found(name, own, opening=True)
    elif which.per_person and not (which.fallback and actor.is_nobody):
        return _nobody(name, actor)
    row = SHARED.sealed(connection, name)
    if row is not None:
        return Found(SHARED, row, which.fallback or "")
    person = "" if which.per_person else actor.person
    has_own = bool(person) and Whose(person).sealed(connection, name) is not None
    return not_found(name, own_of=person if has_own else "")


def _nobody(name: str, actor: Actor) -> NobodyAuthenticated:
    claim = actor.claim
    of_whom = f"credential {quoted(name)} is opened per person"
    credential = recordable(name)
    if claim is None:
        return NobodyAuthenticated(
            f"{of_whom}, and nobody is authenticated here: run the graph inside "
            '"with pipelit.acting_for(username)", with the name from your own authentication, or '
            "on a LangGraph Server with auth (pipelit_agents.server). To open the shared "
            'credential for everybody else, pass fallback="shared"',
            credential=credential,
        )
    if claim.ended:
        return NobodyAuthenticated(
            f"{of_whom}, and the block pipelit.acting_for({claim.username!r}) in which this code "
            "began has ended: wait for its threads, tasks and streams inside of the block, and "
            "begin another one in each process",
            credential=credential,
            person=claim.username,
        )
    source = "pipelit.acting_for" if claim.vouched else "the server"
    return NobodyAuthenticated(
        f"{of_whom}, and {quoted(claim.username)}, whom {source} names, is no active person of "
        "this database (pipelit-agents users list)",
        credential=credential,
        person=recordable(claim.username),
    )
