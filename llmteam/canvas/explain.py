"""Why a run is where it is: the run itself, and what each of its open steps waits for, until when, and what then.

Pure: whoever asks brings the rows, the moment and what is known of queues. Steps that wait for the same are told
together, so that a fan-out of thousands stays readable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from datetime import datetime

from llmteam.canvas.awaited import MOVING_FIRST
from llmteam.canvas.explain_picture import FleetView, Picture, Steps, first_of, name_of, queue_of, says_late_sweep
from llmteam.canvas.explain_steps import kind_of
from llmteam.canvas.phrases import count, length, listed, times
from llmteam.canvas.records import RunRecord, StepRecord
from llmteam.canvas.state import Key, Owner, SegmentStatus, StepState

__all__ = ["FleetView", "Picture", "RunExplained", "StepsExplained", "explain", "name_of"]

#: The error code of a step that took too many workers with it.
WORKER_LOST = "worker_lost"
#: Groups of one kind that stand side by side; more are told as one.
MOST_GROUPS = 5


@dataclass(frozen=True, slots=True)
class StepsExplained:
    """Open steps that wait for the same. ``since`` and ``until`` are the earliest of theirs, ``queue`` if it is one.

    ``requests`` are the ids of what they ask people.
    """

    steps: tuple[Key, ...]
    state: StepState
    owner: Owner | None
    queue: str | None
    since: datetime | None
    until: datetime | None
    says: tuple[str, ...]
    requests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunExplained:
    """A run as it was at ``now``: what is to say of itself, and of its open steps, what moves first."""

    record: RunRecord
    now: datetime
    says: tuple[str, ...]
    steps: tuple[StepsExplained, ...]


def explain(picture: Picture) -> RunExplained:
    """Each open step of the run is in exactly one group; a run that is over has none."""
    return RunExplained(picture.record, picture.now, tuple(_says_run(picture)), tuple(_groups(picture)))


# -- steps


def _groups(picture: Picture) -> Iterator[StepsExplained]:
    wide: dict[Hashable, dict[Hashable, list[StepRecord]]] = {}
    for step in sorted(picture.steps, key=_told_when):
        if step.row.state.is_open:
            kind = kind_of(step.row)
            akin = (step.row.state, step.row.owner, kind.akin(picture, step))
            wide.setdefault(akin, {}).setdefault(kind.alike(picture, step), []).append(step)
    for narrow in wide.values():
        if len(narrow) > MOST_GROUPS:
            yield _explained(picture, [step for group in narrow.values() for step in group])
        else:
            yield from (_explained(picture, group) for group in narrow.values())


def _told_when(step: StepRecord) -> int:
    state = step.row.state
    return MOVING_FIRST.index(state) if state.is_open else len(MOVING_FIRST)


def _explained(picture: Picture, steps: Steps) -> StepsExplained:
    row = steps[0].row
    kind, queues = kind_of(row), {queue_of(step) for step in steps}
    return StepsExplained(
        steps=tuple(step.row.key for step in steps),
        state=row.state,
        owner=row.owner,
        queue=queues.pop() if row.state is not StepState.PENDING and len(queues) == 1 else None,
        since=first_of(kind.since(picture, step.row) for step in steps),
        until=first_of(step.row.wake_at for step in steps),
        says=tuple(kind.says(picture, steps)),
        requests=tuple(case.request.request_id for step in steps if (case := picture.cases.get(step.row.key))),
    )


# -- the run itself


def _says_run(picture: Picture) -> Iterator[str]:
    record = picture.record
    match record.status.value:
        case "completed":
            yield f"Completed {_ended(picture)}: {_tally(picture)}."
        case "cancelled":
            yield f"Cancelled {_ended(picture)}: {_tally(picture)}."
            yield from _says_unfinished(picture)
        case "timeout":
            yield f"Its time was up {_ended(picture)}: {_tally(picture)}."
            yield from _says_unfinished(picture)
            yield _again(record)
        case "failed":
            yield from _says_failed(picture)
        case "paused":
            yield from _says_paused(picture)
        case _:
            yield from _says_going(picture)
    if record.link is not None and record.parent_run_id is not None:
        yield f"It was made as a {record.link} of the run {record.parent_run_id}."


def _ended(picture: Picture) -> str:
    record = picture.record
    if record.finished_at is None:
        return "at an unknown time"
    took = (record.finished_at - (record.started_at or record.created_at)).total_seconds()
    return f"at {picture.at(record.finished_at)}, after {length(took)}"


def _tally(picture: Picture) -> str:
    """How many steps are in which state."""
    states = Counter(step.row.state for step in picture.steps)
    return ", ".join(f"{states[state]:,} {state.value}" for state in StepState if states[state]) or "no steps"


def _again(record: RunRecord) -> str:
    return f"`llmteam runs retry {record.run_id}` makes a new run of it that keeps what finished steps gave."


def _says_unfinished(picture: Picture) -> Iterator[str]:
    """The steps that were running when the run was ended from outside."""
    record = picture.record
    cut = [
        name_of(step.row.key)
        for step in picture.steps
        if step.row.state is StepState.CANCELLED
        and step.row.started_at is not None
        and step.row.finished_at == record.finished_at
    ]
    if cut:
        yield f"{count(len(cut), 'step')} had begun and {'was' if len(cut) == 1 else 'were'} not over: {listed(cut)}."


def _says_failed(picture: Picture) -> Iterator[str]:
    record = picture.record
    error = record.error
    yield f"Failed {_ended(picture)}: {_tally(picture)}."
    if error is not None:
        yield f"The error: {error.error_type}: {error.error_message}"
    failed = [step.row for step in picture.steps if step.row.state is StepState.FAILED]
    for row in [row for row in failed if row.error is not None and row.error == error][:1]:
        tries = f"attempt {row.attempt} of {picture.attempts(row)}"
        if row.error is not None and row.error.error_code == WORKER_LOST:
            tries = f"loss {row.losses} of its worker, with {count(row.attempt, 'failed attempt')}"
        elif row.losses:
            tries += f", and its worker was lost {times([row.losses])}"
        yield f"The step {name_of(row.key)} failed for good at {tries}."
    yield _again(record)


def _says_paused(picture: Picture) -> Iterator[str]:
    record = picture.record
    since = "" if record.paused_at is None else f" since {picture.at(record.paused_at)}"
    snapshot = "" if record.snapshot_id is None else f" by the snapshot {record.snapshot_id}"
    yield f"Paused{since}{snapshot}: {_tally(picture)}."
    yield f"Nothing of it moves until `llmteam runs resume {record.run_id}`; its timers stand still until then."
    if record.deadline is not None and record.paused_at is not None:
        left = max(0.0, (record.deadline - record.paused_at).total_seconds())
        yield f"From then on it has {length(left)} left before it ends with the status timeout."


def _says_going(picture: Picture) -> Iterator[str]:
    record = picture.record
    pausing = record.status is SegmentStatus.PAUSING
    began = record.paused_at if pausing else record.started_at
    yield f"{record.status.capitalize()} since {picture.at(began or record.created_at)}: {_tally(picture)}."
    if pausing:
        yield from _says_pausing(picture)
        return
    if not any(step.row.state.is_open for step in picture.steps):
        yield "No step is open, so that it ends right now; if it does not, look with `llmteam explain --check`."
    if record.deadline is None:
        yield "It has no deadline."
    elif record.deadline > picture.now:
        yield f"It has until {picture.at(record.deadline)}; then it ends with the status timeout, open steps cancelled."
    else:
        yield f"Its deadline was {picture.at(record.deadline)}: the next sweep ends it with the status timeout."
        yield from says_late_sweep(picture, "runs")


def _says_pausing(picture: Picture) -> Iterator[str]:
    record = picture.record
    yield "Running steps may finish, no other is begun; then it is paused."
    if record.wake_at is not None:
        yield f"What still runs at {picture.at(record.wake_at)} begins again after the pause; no attempt is used up."
        if record.wake_at < picture.now:
            yield from says_late_sweep(picture, "runs")
