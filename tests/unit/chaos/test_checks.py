"""Each check finds what it is there for, and nothing in a run that went well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chaos.checks import CHECKS, Account, accounts, findings
from chaos.evidence import EventRow, Evidence, RunRow, StepRow
from chaos.shapes import Outcome

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def log(*told: tuple[str, str | None]) -> list[EventRow]:
    """Events a second apart: type and step; a step called ``join`` is one."""
    return [
        EventRow(
            "r",
            number,
            event_type,
            NOON + timedelta(seconds=number),
            step_id,
            None if step_id is None else "parallel_join" if step_id == "join" else "work",
            None if step_id is None else 1,
            None if step_id is None else 1,
        )
        for number, (event_type, step_id) in enumerate(told, 1)
    ]


TOLD = (
    ("segment.started", None),
    ("step.started", "a"),
    ("step.completed", "a"),
    ("step.started", "join"),
    ("step.completed", "join"),
    ("segment.completed", None),
)
ROW = RunRow("r", "completed", 0, 0, 2, 0, 2, 7, None, True)
STEPS = [StepRow("r", step_id, 1, "completed", 0, 0, 1, "llmteam.io") for step_id in ("a", "join")]
WELL = Account(
    "r",
    Outcome("completed", {"output": 1}, None, frozenset({"pay"})),
    ROW,
    {"output": 1},
    STEPS,
    log(*TOLD),
    {"pay": {"key": 2}},
)


def without(told: Sequence[tuple[str, str | None]], number: int) -> list[EventRow]:
    return [event for event in log(*told) if event.seq != number]


def again(step_id: str, event_type: str) -> dict[str, Any]:
    """The run with one more event of a step, its numbers in order."""
    told = [*TOLD[:-1], (event_type, step_id), TOLD[-1]]
    return {"events": log(*told), "row": replace(ROW, next_seq=8)}


def told_twice(event_type: str) -> dict[str, Any]:
    return {"events": log(*TOLD[:-1], (event_type, "a"), (event_type, "a"), TOLD[-1])}


def steps(**change: Any) -> list[StepRow]:
    return [replace(STEPS[0], **change), STEPS[1]]


def log_of_a_zombie() -> list[EventRow]:
    """The answer of ``a`` comes from a handler that was called before the step began for the last time."""
    return [replace(event, began=NOON.timestamp() + 1.5) if event.seq == 3 else event for event in log(*TOLD)]


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("lost", {"row": None}),
    ("lost", {"row": replace(ROW, over=False, status="running")}),
    ("ended otherwise", {"row": replace(ROW, status="failed")}),
    ("ended otherwise", {"row": replace(ROW, error_type="ValueError")}),
    ("ended otherwise", {"outputs": {"output": 2}}),
    ("results applied twice", again("a", "step.completed")),
    ("results of claims that were lost", {"events": log_of_a_zombie()}),
    ("joins fired twice", again("join", "step.started")),
    ("steps started twice", again("a", "step.started")),
    ("steps started twice", {"steps": steps(fence=2)}),
    ("people asked twice, or two answers taken", told_twice("human.task_created")),
    ("people asked twice, or two answers taken", told_twice("human.task_completed")),
    ("people asked for runs that are over", {"asked": 1}),
    ("event logs with gaps or duplicates", {"events": without(TOLD, 3)}),
    ("event logs with gaps or duplicates", {"events": [*log(*TOLD), log(*TOLD)[-1]]}),
    ("event logs with gaps or duplicates", {"row": replace(ROW, next_seq=9)}),
    ("event logs with gaps or duplicates", {"events": log(*TOLD[:-1], ("step.started", "a"))}),
    ("runs with wrong counters or open steps", {"row": replace(ROW, completed=1)}),
    ("runs with wrong counters or open steps", {"row": replace(ROW, failed=1)}),
    ("runs with wrong counters or open steps", {"row": replace(ROW, total=3)}),
    ("runs with wrong counters or open steps", {"steps": steps(state="ready")}),
    ("effects missing", {"effects": {}}),
    ("effects that were not to be", {"effects": {"pay": {"key": 1}, "ship": {"other": 1}}}),
    ("effects with two keys", {"effects": {"pay": {"key": 1, "other": 1}}}),
    ("effects with two keys", {"effects": {"pay": {"": 1}}}),
]


def test_a_run_that_went_well_breaks_nothing() -> None:
    assert findings([WELL]) == {name: [] for name in CHECKS}


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_each_check_finds_what_it_is_there_for(name: str, wrong: dict[str, Any]) -> None:
    lines = findings([replace(WELL, **wrong)])[name]

    assert lines
    assert all(line.startswith("r: ") for line in lines)


def test_every_check_is_shown_to_find_something() -> None:
    assert {name for name, _ in WRONG} == set(CHECKS)


@pytest.mark.parametrize("reason", ["step.retrying", "step.lost", "step.released"])
def test_a_claim_that_ended_lets_a_step_begin_once_more(reason: str) -> None:
    told = [*TOLD[:2], (reason, "a"), *TOLD[1:]]

    run = replace(WELL, events=log(*told), row=replace(ROW, next_seq=9), steps=steps(fence=2))

    assert findings([run]) == {name: [] for name in CHECKS}


def test_a_run_of_which_there_is_nothing_has_an_account_too() -> None:
    expected = {"r": WELL.expected, "gone": Outcome("completed", {})}
    evidence = Evidence({"r": ROW}, {"r": STEPS}, {"r": log(*TOLD)}, {})

    well, gone = accounts(expected, {"r": {"output": 1}}, evidence, {("r", "pay"): {"key": 2}, ("x", "pay"): {}})

    assert well == WELL
    assert (gone.run_id, gone.row, gone.events, gone.effects) == ("gone", None, (), {})
