"""Rules of approvals: who is asked, how many of them must approve, until when, and who next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from sqlalchemy import Connection

from pipelit_agents._bounds import require_count, require_flag
from pipelit_agents.approvals import tags
from pipelit_agents.approvals.arguments import WEEK, require_approvers, require_lifetime
from pipelit_agents.database.engine import Database
from pipelit_agents.errors import NotPermitted
from pipelit_agents.identity.acting import claimed_person, standing_of
from pipelit_agents.protocol.payload import Json

__all__ = ["Approvers", "acting_person", "is_person", "steps_for"]

Arguments: TypeAlias = Mapping[str, Json]

_MAX_STEPS: Final = 5
NOBODY_KNOWN: Final = (
    "the requester may not approve, and no person is known for whom the run acts: run it inside "
    "pipelit.acting_for(username), or on a server that authenticates people"
)


@dataclass(frozen=True, slots=True)
class Approvers:
    """A rule: the people who are asked, how many of them must approve, and until when.

    Attributes:
        people: The usernames of the people (``users.create``) who may answer.
        at_least: How many different people must approve. One denial denies.
        expires_in: The time in which the question can be answered: seconds or a timedelta. It is
            also the time in which its approval can be used, unless others are asked afterwards.
        show: Returns a summary of the arguments for people: text or other JSON. It is displayed
            beside the exact arguments, never in their place.
        when: Returns whether a call with these arguments needs an approval. By default every call
            needs one. The arguments are as the model sent them: a tool may convert them later, for
            example ``"900"`` to ``900``. So return False only for what you expect. A question that
            was asked counts, whatever ``when`` returns later.
        not_requester: Leave out the person for whom the run acts, here and in later steps.
        escalate_to: The people who are asked if there is no decision after ``expires_in``: another
            rule without ``show`` and ``when``. At most five rules follow each other.

    Raises:
        TypeError: An argument is of another type, or ``people`` is one name.
        ValueError: An argument is out of range.
        InvalidUsername: A name is malformed.

    Example:
        ```python
        rule = Approvers(
            ["alice", "bob", "carol"],
            at_least=2,
            expires_in=timedelta(hours=4),
            show=lambda arguments: f"Pay {arguments['amount']} to {arguments['to']}",
            when=lambda arguments: arguments.get("amount") not in range(1, 51),
            not_requester=True,
            escalate_to=Approvers(["dora"], expires_in=timedelta(hours=1)),
        )
        ```
    """

    people: Sequence[str]
    _: KW_ONLY
    at_least: int = 1
    expires_in: timedelta | float = WEEK
    show: Callable[[Arguments], object] | None = None
    when: Callable[[Arguments], bool] | None = None
    not_requester: bool = False
    escalate_to: Approvers | None = None

    def __post_init__(self) -> None:
        names = require_approvers(self.people, argument="people")
        object.__setattr__(self, "people", names)
        require_count(self.at_least, "at_least")
        if self.at_least > len(names):
            raise ValueError(
                f"at_least is {self.at_least}, but people has {len(names)} different names: lower "
                "at_least, or name more people"
            )
        object.__setattr__(self, "expires_in", require_lifetime(self.expires_in))
        for argument, value in (("show", self.show), ("when", self.when)):
            if value is not None and not callable(value):
                raise TypeError(f"{argument} must be a function of the arguments, or None")
        require_flag(self.not_requester, "not_requester")
        if self.escalate_to is not None:
            self._check_next(self.escalate_to)

    def _check_next(self, following: object) -> None:
        if not isinstance(following, Approvers):
            raise TypeError(
                f"escalate_to must be Approvers(…) or None, not {type(following).__name__}"
            )
        if following.show is not None or following.when is not None:
            raise ValueError("escalate_to has its own show or when: set them on the first rule")
        rules = list(self.chain())
        if len(rules) > _MAX_STEPS:
            raise ValueError(f"escalate_to: at most {_MAX_STEPS} rules can follow each other")
        try:
            require_lifetime(sum(each.seconds for each in rules))
        except ValueError as error:
            raise ValueError(f"escalate_to: the sum of all rules' {error}") from None

    @property
    def seconds(self) -> float:
        """The time in which the question can be answered, in seconds."""
        return require_lifetime(self.expires_in)

    def chain(self) -> Iterator[Approvers]:
        """Yield this rule, and those to which it escalates, in their order."""
        rule: Approvers | None = self
        while rule is not None:
            yield rule
            rule = rule.escalate_to

    def applies_to(self, arguments: Arguments) -> bool:
        """Return whether a call with these arguments needs an approval.

        Raises:
            TypeError: ``when`` returned something else than True or False.
        """
        if self.when is None:
            return True
        found: object = self.when(arguments)
        if type(found) is not bool:
            raise TypeError(f"when must return True or False, not {type(found).__name__}")
        return found


def acting_person(database: Database, connection: Connection) -> str | None:
    """Return the person for whom the running code acts, also in a cron's run; None if unknown."""
    claim = claimed_person(database)
    if claim is None or claim.ended or not is_person(connection, claim.username):
        return None
    return claim.username


def is_person(connection: Connection, username: str) -> bool:
    """Return whether this is the name of a person's account, active or not."""
    return standing_of(connection, username) in ("person", "inactive")


def steps_for(rule: Approvers, person: str | None) -> list[tags.Step]:
    """Return the steps of a question under a rule; their times begin at 0.

    Args:
        rule: The rule.
        person: The person for whom the run acts; None if nobody is known.

    Raises:
        NotPermitted: The requester is left out, and isn't known or too few others remain.
    """
    steps: list[tags.Step] = []
    begins, left_out = 0.0, False
    for each in rule.chain():
        left_out = left_out or each.not_requester
        if left_out and person is None:
            raise NotPermitted(NOBODY_KNOWN)
        people = tuple(name for name in each.people if not left_out or name != person)
        if len(people) < each.at_least:
            raise NotPermitted(
                f"the requester {person!r} may not approve, and without this person there are "
                f"{len(people)} of the {each.at_least} approvers that the rule needs"
            )
        steps.append(tags.Step(people, each.at_least, begins, begins + each.seconds))
        begins = steps[-1].until
    return steps
