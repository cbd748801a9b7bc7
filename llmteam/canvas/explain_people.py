"""What steps ask people, whom, until when, and how to answer, as sentences."""

from __future__ import annotations

from collections.abc import Iterator

from llmteam.canvas.explain_picture import Picture, Steps, first_of, name_of
from llmteam.canvas.phrases import FEW, count, listed
from llmteam.canvas.records import StepRecord
from llmteam.human.deadlines import next_wake
from llmteam.human.rulings import Case
from llmteam.human.words import agreed, answer_command, answer_in_words, asked_of, next_of

#: The port that a step goes on by when nobody has answered in time.
TIMEOUT = "timeout"


def says_asked(picture: Picture, steps: Steps) -> Iterator[str]:
    """Of steps that wait for a person."""
    cases = [(step, picture.cases.get(step.row.key)) for step in steps]
    missing = [name_of(step.row.key) for step, case in cases if case is None]
    if missing:
        yield f"Nothing is known of what {listed(missing)} asked: `llmteam explain --check` looks for what is wrong."
    found = [(step, case) for step, case in cases if case is not None]
    if len(found) == 1:
        yield from _says_one(picture, *found[0])
    elif found:
        yield from _says_many(picture, [case for _, case in found])


def _says_one(picture: Picture, step: StepRecord, case: Case) -> Iterator[str]:
    request = case.request
    yield f"Waiting for {asked_of(request)} since {picture.at(request.created_at)}: {request.title}"
    if not request.status.is_open:
        yield from _says_closed(picture, step, case)
        return
    yield from _says_progress(case)
    yield from _says_until(picture, step, case)
    yield f"Answer request {request.request_id}: `{answer_command(request, request.assignee_id or 'YOU')}`."


def _says_progress(case: Case) -> Iterator[str]:
    request = case.request
    if request.quorum > 1:
        yes, no = agreed(case)
        yield f"{yes} of {request.quorum} have approved" + (f", {no} rejected." if no else ".")
    if request.claimed_by is not None:
        yield f"{request.claimed_by} works on it."
    if request.four_eyes:
        yield f"{request.requester_id} started the run and may not decide in it."


def _says_until(picture: Picture, step: StepRecord, case: Case) -> Iterator[str]:
    request, due = case.request, next_wake(case.request)
    if due is not None and (request.deadline is None or due < request.deadline):
        yield f"People are reminded or warned next at {picture.at(due)}."
    if request.deadline is None:
        return
    then = next_of(request)
    if request.current_escalation_level >= len(request.escalation_chain):
        node = picture.graph.nodes[step.row.step_id]
        handled = any(edge.source_port == TIMEOUT for edge in node.outs)
        then = f"the step goes on by its port {TIMEOUT}" if handled else "the step fails with HumanTaskTimeoutError"
    yield f"There is time until {picture.at(request.deadline)}; then {then}."


def _says_closed(picture: Picture, step: StepRecord, case: Case) -> Iterator[str]:
    said = answer_in_words(case) or f"it is {case.request.status.value}"
    yield f"That is over: {said}. A message lets the step go on."
    if step.row.wake_at is not None:
        yield f"If it was lost, a sweep sends another at {picture.at(step.row.wake_at)}."


def _says_many(picture: Picture, cases: list[Case]) -> Iterator[str]:
    still = [case.request for case in cases if case.request.status.is_open]
    whom = listed(list(dict.fromkeys(asked_of(request) for request in still)), FEW) if still else "nobody any more"
    yield f"Waiting for the answers to {count(len(still), 'request')}, of {whom}."
    until = first_of(request.deadline for request in still)
    if until is not None:
        yield f"The first has time until {picture.at(until)}."
    yield f"Look: `llmteam inbox list --run {picture.record.run_id}`."


def says_frozen(picture: Picture, steps: Steps) -> Iterator[str]:
    """Of steps whose run stands still, what people can do meanwhile."""
    found = [case.request for step in steps if (case := picture.cases.get(step.row.key)) is not None]
    still = [request for request in found if request.status.is_open]
    if len(still) == 1:
        request = still[0]
        yield f"It asks {asked_of(request)}, whose time stands still too: {request.title}"
        command = answer_command(request, request.assignee_id or "YOU")
        yield f"An answer now is kept until it goes on: `{command}`."
    elif still:
        yield f"People can answer meanwhile: `llmteam inbox list --run {picture.record.run_id}`."
    elif found:
        yield "It was answered meanwhile, and takes that up then."
