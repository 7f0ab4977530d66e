"""Approvals of tool calls: one question for each call, and at most one run of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select, update

from pipelit_agents._bounds import require_count
from pipelit_agents._core import Core
from pipelit_agents._twins import off_the_loop
from pipelit_agents.approvals import questions, rows, tags, usage
from pipelit_agents.approvals.digest import MAX_SHOWN, canonical
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.people import People
from pipelit_agents.approvals.rules import Approvers, acting_person, is_person, steps_for
from pipelit_agents.approvals.values import ApprovalDecision, ApprovalRequest
from pipelit_agents.audit.records import storable
from pipelit_agents.database.models import ApprovalRow, ApprovalUseRow
from pipelit_agents.database.planted import all_rows
from pipelit_agents.errors import NotPermitted, UnsealError
from pipelit_agents.protocol.payload import Json, decode
from pipelit_agents.protocol.usernames import OPERATOR, require_username
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import result_purpose

__all__ = ["Call", "CallApprovals", "Interrupts"]

_MAX_RESULT: Final = 2**20
# How many questions may wait at the same time, so that a model can't flood the approvers.
MAX_OF_PERSON: Final = 200
MAX_OF_THREAD: Final = 50
# Bytes of what their questions display, as it is stored. Who lists questions decrypts all of it.
MAX_DISPLAYED: Final = 8 * 2**20


class Call(NamedTuple):
    """A tool call. Two calls are the same if all fields but the agent are.

    Attributes:
        tool: The tool's name.
        arguments: The arguments with which the tool runs.
        call_id: The id that the model gave the call.
        thread: The LangGraph thread.
        namespace: LangGraph's ``checkpoint_ns`` of the task.
        agent: The username of the agent that calls, or an empty string.
    """

    tool: str
    arguments: Mapping[str, Json]
    call_id: str
    thread: str
    namespace: str
    agent: str = ""

    @property
    def key(self) -> str:
        """64 hexadecimal digits that identify the call.

        Raises:
            NotPermitted: There is no thread.
            PayloadError: The arguments aren't JSON, or are longer than 1 MiB.
            TypeError: The arguments aren't a mapping, or another field isn't text.
            ValueError: The tool's name or the call's id is empty.
        """
        texts = (self.thread, self.namespace, self.call_id, self.tool, self.agent)
        if not all(isinstance(each, str) for each in texts):
            raise TypeError("a call's tool, call_id, thread, namespace and agent must be text")
        if not isinstance(self.arguments, Mapping):
            raise TypeError("a call's arguments must be a mapping of their names to JSON")
        if not self.thread:
            raise NotPermitted(
                f"the tool {self.tool!r} needs an approval, which waits in a thread: compile the "
                "graph with a checkpointer, and run it with a thread_id in configurable"
            )
        if not self.tool or not self.call_id:
            raise ValueError("a call needs the name of its tool, and the id that the model gave it")
        fields = (*texts[:4], canonical(dict(self.arguments)))
        encoded = [each.encode("utf-8", "surrogatepass") for each in fields]
        data = b"".join(len(each).to_bytes(4, "big") + each for each in encoded)
        return hashlib.sha256(b"pipelit-agents/call/v1\0" + data).hexdigest()


class Interrupts(NamedTuple):
    """How often the task of a call was interrupted for its question.

    Attributes:
        asks: How many interrupts were raised before the decision, at most.
        waits: How many of them are replayed after the decision; None if that isn't known yet.
    """

    asks: int
    waits: int | None


class CallApprovals:
    """Questions about tool calls; ``pipelit.approvals.calls``.

    Each call has one question, and runs at most once. If a call was started and its result isn't
    known, it isn't started again.

    Args:
        core: The database, the keys and the clocks.
        people: Looks up people.

    Example:
        ```python
        call = Call("send_money", {"to": "bob", "amount": 90}, "call_1", "thread_1", namespace)
        pipelit.approvals.calls.ask(call, Approvers(["alice"]))
        ...                                                       # alice approves
        pipelit.approvals.calls.start(call, Approvers(["alice"]))
        pipelit.approvals.calls.finish(call, send_money(**call.arguments))
        ```
    """

    def __init__(self, core: Core, people: People) -> None:
        self._core = core
        self._people = people

    def ask(
        self,
        call: Call,
        rule: Approvers,
        *,
        requester: str | None = None,
    ) -> ApprovalRequest:
        """Return the question of a call; store it if there is none.

        Args:
            call: The call.
            rule: Who is asked.
            requester: The requester's username; by default the person for whom the run acts, else
                the agent, else ``operator``.

        Raises:
            NotPermitted: There is no thread, the requester may not approve and isn't known, an
                approver isn't a person, or too many questions wait already.
            SecondFactorError: Too few of the approvers could answer; the message has each reason.
            UserNotFound: An approver has no account.
            PayloadError: The arguments or the summary aren't JSON, or are longer than 1 MiB.
            InvalidUsername: A name is malformed.
            ConfigurationError: There is no key.
        """
        if not isinstance(rule, Approvers):
            raise TypeError(f"rule must be Approvers(…), not {type(rule).__name__}")
        key, core = call.key, self._core
        if call.agent:
            require_username(call.agent, argument="agent")
        with core.database.reading() as connection:
            row = self._find(connection, key)
            if row is not None:
                return questions.stored_request(Moment.of(core, connection), row)
            person, asked_by = self._requester(connection, requester, call.agent)
        steps = steps_for(rule, person)
        self._people.require_possible([(step.people, step.at_least) for step in steps])
        shown: dict[str, object] = {"tool": call.tool, "arguments": dict(call.arguments)}
        if rule.show is not None:
            # A copy, so that the function can't change what is displayed and run.
            copied = decode(canonical(shown).encode(), limit=MAX_SHOWN)
            shown["summary"] = rule.show(copied["arguments"])
        text = canonical(shown)
        thread = storable(call.thread, 149)
        with core.database.writing(durable=True) as connection:
            core.database.lock(connection, f"approvals of:{asked_by}", f"call:{key}")
            moment = Moment.of(core, connection)
            row = self._find(connection, key)
            if row is not None:
                return questions.stored_request(moment, row)
            self._refuse_flood(moment, person, asked_by, thread)
            row = questions.add_question(
                moment,
                steps,
                ruled=True,
                asked_by=asked_by,
                thread=thread,
                shown=text,
                agent=call.agent,
                call=key,
            )
        return questions.new_request(row, text)

    aask: Final = off_the_loop(ask)

    def find(self, call: Call) -> ApprovalRequest | None:
        """Return the question of a call with its answers, or None if there is none."""
        key = call.key
        with self._core.database.reading() as connection:
            row = self._find(connection, key)
            if row is None:
                return None
            return questions.stored_request(Moment.of(self._core, connection), row)

    afind: Final = off_the_loop(find)

    def start(self, call: Call, rule: Approvers) -> tuple[ApprovalDecision, ...]:
        """Use up the approval of a call, just before the tool runs.

        Everything is counted again: the people must be active, with the same second factor, and
        named by this rule and by the rule under which they were asked.

        Returns:
            The answers that approved it.

        Raises:
            NotPermitted: There is no valid approval, or the call was started before.
        """
        if not isinstance(rule, Approvers):
            raise TypeError(f"rule must be Approvers(…), not {type(rule).__name__}")
        key = call.key
        with self._core.database.reading() as connection:
            found = self._require(connection, key)
        return usage.start(self._core, found.id, rule)

    astart: Final = off_the_loop(start)

    def started(self, call: Call) -> bool:
        """Return whether a call was ever started, whatever people answered afterwards."""
        key = call.key
        with self._core.database.reading() as connection:
            row = self._find(connection, key)
        return row is not None and row.starts > 0

    astarted: Final = off_the_loop(started)

    def suspend(self, call: Call) -> None:
        """Allow one more start of a call that interrupted itself after it was started.

        Raises:
            NotPermitted: It wasn't started, was finished, or was suspended before.
        """
        core, key = self._core, call.key
        with core.database.writing(durable=True) as connection:
            row = self._locked(connection, key)
            if row is None or row.state != "used" or not _runs(connection, row):
                raise NotPermitted("this call isn't running: it can't be suspended")
            rows.set_state(Moment.of(core, connection), row, "suspended")
            core.record(connection, OPERATOR, row.id, "approval.suspend", row.digest)

    asuspend: Final = off_the_loop(suspend)

    def finish(self, call: Call, result: bytes | None) -> None:
        """Store the result of a call that was started, encrypted.

        Args:
            call: The call.
            result: The result; one of more than 1 MiB, or None, isn't stored.

        Raises:
            NotPermitted: The call wasn't started.
        """
        if result is not None and not isinstance(result, bytes):
            raise TypeError(f"result must be bytes or None, not {type(result).__name__}")
        core, key = self._core, call.key
        with core.database.writing(durable=True) as connection:
            row = self._locked(connection, key)
            if row is None or row.state != "used":
                raise NotPermitted("this call isn't running: it can't be finished")
            if result is None or len(result) > _MAX_RESULT:
                return
            purpose = result_purpose(row.id, row.starts)
            token = core.fitting_keyring(connection).seal(result, purpose)
            change = update(ApprovalUseRow).where(*_unfinished(row))
            connection.execute(change.values(result=Sealed(token, purpose)))

    afinish: Final = off_the_loop(finish)

    def result(self, call: Call) -> bytes | None:
        """Return the stored result of a call; None if there is none."""
        key = call.key
        with self._core.database.reading() as connection:
            row = self._find(connection, key)
            if row is None or row.state != "used":
                return None
            last = (ApprovalUseRow.approval_id == row.id, ApprovalUseRow.start == row.starts)
            found = all_rows(connection, select(ApprovalUseRow.result).where(*last))
        for (sealed,) in found:
            with suppress(UnsealError):
                if sealed is not None:
                    purpose = result_purpose(row.id, row.starts)
                    return self._core.keyring().unseal(sealed.token, purpose)
        return None

    aresult: Final = off_the_loop(result)

    def waiting(self, call: Call, count: int) -> None:
        """Record that a task raised this many interrupts for the question; the most count.

        Raises:
            NotPermitted: The call has no question.
        """
        require_count(count, "count")
        self._note(call, ApprovalRow.asks < count, asks=count)

    awaiting: Final = off_the_loop(waiting)

    def waited(self, call: Call, count: int) -> None:
        """Record how many interrupts are replayed after the decision; the first record counts.

        Raises:
            NotPermitted: The call has no question.
        """
        require_count(count, "count", least=0)
        self._note(call, ApprovalRow.waits.is_(None), waits=count)

    awaited: Final = off_the_loop(waited)

    def interrupts(self, call: Call) -> Interrupts:
        """Return how often the task of a call was interrupted for its question.

        Raises:
            NotPermitted: The call has no question.
        """
        key = call.key
        with self._core.database.reading() as connection:
            found = self._require(connection, key)
            query = select(ApprovalRow.asks, ApprovalRow.waits).where(ApprovalRow.id == found.id)
            stored = all_rows(connection, query)
        # No tag covers them, so they may be anything.
        asks, waits = stored[0] if stored else (0, None)
        return Interrupts(asks if type(asks) is int else 0, waits if type(waits) is int else None)

    ainterrupts: Final = off_the_loop(interrupts)

    def _note(self, call: Call, where: ColumnElement[bool], **values: int) -> None:
        key = call.key
        with self._core.database.writing() as connection:
            found = self._require(connection, key)
            change = update(ApprovalRow).where(ApprovalRow.id == found.id, where)
            connection.execute(change.values(values))

    # These take the key, because computing it takes long, and may run code of the arguments.
    def _find(self, connection: Connection, key: str) -> tags.QuestionRow | None:
        # Anybody can plant a row of this call; only one that our keys have tagged is its question.
        for row in rows.read_questions(connection, ApprovalRow.call == key, ApprovalRow.call != ""):
            if tags.question_is_ours(self._core.keyring(), row):
                return row
        return None

    def _require(self, connection: Connection, key: str) -> tags.QuestionRow:
        row = self._find(connection, key)
        if row is None:
            raise NotPermitted("this may not be done: nobody was asked about exactly this call")
        return row

    def _locked(self, connection: Connection, key: str) -> tags.QuestionRow | None:
        row = self._find(connection, key)
        if row is not None:
            self._core.database.lock(connection, f"approval:{row.digest}")
            row = self._find(connection, key)
        return row

    def _requester(
        self, connection: Connection, requester: str | None, agent: str
    ) -> tuple[str | None, str]:
        """Return the person for whom the call is made, if known, and the requester's name."""
        if requester is None:
            person = acting_person(self._core.database, connection)
            return person, person or agent or OPERATOR
        name = require_username(requester, argument="requester")
        return name if is_person(connection, name) else None, name

    def _refuse_flood(self, moment: Moment, person: str | None, asked_by: str, thread: str) -> None:
        # By person, so that nobody can use up what others may ask; by thread if nobody is known.
        where = [
            ApprovalRow.state == "pending",
            ApprovalRow.expires_at > moment.now,
            ApprovalRow.call != "",
            ApprovalRow.asked_by == asked_by,
        ]
        if person is None:
            where.append(ApprovalRow.thread == thread)
        found = rows.read_questions(moment.connection, *where, with_shown=False)
        keyring = moment.keyring
        waiting = {row.id for row in found if tags.question_is_ours(keyring, row)}
        many = len(waiting) >= (MAX_OF_PERSON if person else MAX_OF_THREAD)
        query = select(ApprovalRow.id, func.length(ApprovalRow.shown)).where(*where)
        sizes = all_rows(moment.connection, query)
        displayed = sum(size or 0 for identifier, size in sizes if identifier in waiting)
        if many or displayed >= MAX_DISPLAYED:
            much = "" if many else f" with {displayed:,} bytes to read"
            raise NotPermitted(
                f"{len(waiting)} questions{much} of {person or 'this thread'} wait for an answer "
                "already: wait until people have answered them, or until they expire"
            )


def _unfinished(row: tags.QuestionRow) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the last start of a call, if its result isn't known."""
    use = ApprovalUseRow
    return use.approval_id == row.id, use.start == row.starts, use.result.is_(None)


def _runs(connection: Connection, row: tags.QuestionRow) -> bool:
    query = select(ApprovalUseRow.used_at).where(*_unfinished(row))
    return connection.scalar(query) is not None
