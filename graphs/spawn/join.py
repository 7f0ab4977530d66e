"""The last node of a spawn graph, which compares each answer with its task."""

from __future__ import annotations

from langchain_core.runnables import RunnableConfig

from pipelit_agents.display import SpawnResults
from pipelit_agents.errors import SpawnError

from ..steps import Step
from .results import JOIN, SpawnOutput, SpawnResult, SpawnState, make_result
from .run import run_of, spawn_error
from .tasks import Terms, answers, listed_problems, split_marks

__all__ = ["join_node"]


def join_node(terms: Terms) -> Step:
    """Return the node that writes one result a task, or raises the error of the failed ones."""

    def join(state: SpawnState, config: RunnableConfig) -> SpawnOutput:
        tasks = state["tasks"] or []
        found: dict[int, list[SpawnResult]] = {}
        for answer in state.get("answers") or []:
            found.setdefault(answer["index"], []).append(answer["result"])
        results = SpawnResults()
        for index, mark in enumerate(split_marks(state["requested"])):
            recorded = found.pop(index, [])
            if len(recorded) != 1 or not answers(recorded[0], index, mark):
                results.append(_unanswered_result(index, tasks[index], recorded, terms))
            elif recorded[0]["status"] != "refused" and not terms.admits(recorded[0]["agent"]):
                results.append(_not_admitted_result(index, tasks[index], terms))
            else:
                results.append(recorded[0])
        if found:
            raise SpawnError(
                "the record holds answers to tasks that don't exist, with index "
                f"{listed_problems(map(str, found))}"
            )
        if terms.on_failure == "raise" and any(each["status"] != "verified" for each in results):
            run = run_of(config)
            run.results = dict(enumerate(results))
            raise spawn_error(run)
        return {"results": results}

    return Step(join, None, JOIN)


def _unanswered_result(
    index: int, task: object, recorded: list[SpawnResult], terms: Terms
) -> SpawnResult:
    """Return the result of a task that has no matching answer after all children finished."""
    read = terms.read_task(index, task)
    if recorded:
        error = f"the record of tasks[{index}] doesn't answer it and isn't used"
    else:
        error = f"tasks[{index}] was sent to a child, and has no answer"
    if read.problem is not None:
        error = f"{error}: {read.problem}"
    result = make_result(read.agent, "refused" if read.refused else "failed", error=error)
    return SpawnResult({**result, "index": index, "request": read.digest})


def _not_admitted_result(index: int, task: object, terms: Terms) -> SpawnResult:
    """Return the result of a task whose agent answered, and isn't admitted any more."""
    read = terms.read_task(index, task)
    result = make_result(read.agent, "refused", error=f"its answer isn't used: {read.problem}")
    return SpawnResult({**result, "index": index, "request": read.digest})
