"""Loops, wherever a segment runs: visits, exits, nesting, limits, and what an iteration sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conformance.fleets import Fleet, eventually
from tests.drawing import draw


def test_a_loop_goes_round_as_long_as_its_condition_holds(fleet: Fleet) -> None:
    segment = draw("s -> count_1 -> if_1", "if_1.true -> count_1", "if_1.false -> end", **when(if_1="n < 3"))

    ran = fleet.run(segment)

    assert ran.outputs == {"output": 'end({"n": 3})'}
    assert [ran.states[f"if_1{visit}"] for visit in ("", "#2", "#3")] == ["completed"] * 3
    assert ran.of("end") == ["step.started", "step.completed"]


def when(**expressions: str) -> dict[str, Any]:
    return {"config": {step_id: {"expression": expression} for step_id, expression in expressions.items()}}


def test_a_step_may_loop_to_itself(fleet: Fleet) -> None:
    ran = fleet.run(draw("count_1 -[n < 4]-> count_1", "count_1 -> end"))

    assert ran.outputs == {"output": 'end({"n": 4})'}
    visits = [
        event.visit for event in ran.events if event.event_type == "step.completed" and event.step_id == "count_1"
    ]
    assert visits == [1, 2, 3, 4]


def test_a_loop_may_be_left_in_the_middle(fleet: Fleet) -> None:
    ran = fleet.run(draw("count_1 -[n >= 3]-> end", "count_1 -> fix -> count_1", config={"fix": {"answer": {"n": 2}}}))

    assert ran.outputs == {"output": 'end({"n": 3})'}
    assert ran.states == {
        **dict.fromkeys(("count_1", "count_1#2", "fix", "end"), "completed"),
        "fix#2": "skipped",
    }


def test_loops_nest_and_the_inner_one_counts_anew_each_time(fleet: Fleet) -> None:
    segment = draw(
        "count_o -> count_i -[i < 2]-> count_i",
        "count_i -[o < 3]-> count_o",
        "count_i -> end",
        max_visits=3,
        config={"count_o": {"key": "o", "reset": ["i"]}, "count_i": {"key": "i"}},
    )

    ran = fleet.run(segment)

    assert ran.outputs == {"output": 'end({"i": 2, "o": 3})'}
    assert {step for step in ran.states if step.startswith("count")} == {
        *("count_o", "count_o#2", "count_o#3"),
        *("count_i", "count_i#2", "count_i#3", "count_i#4", "count_i#5", "count_i#6"),
    }


def test_a_loop_inside_a_branch_ends_before_the_join(fleet: Fleet) -> None:
    segment = draw(
        "s -> split_1 -> count_1 -[n < 3]-> fix -> count_1",
        "count_1 -> all_1 -> end",
        "split_1 -> b -> all_1",
        config={"fix": {"ports": {"output": {"n": 2}}}},
    )

    assert fleet.run(segment).outputs == {"output": 'end([{"n": 3}, b(s)])'}


def test_branches_inside_a_loop_are_joined_in_each_iteration(fleet: Fleet) -> None:
    segment = draw(
        "h -> split_1 -> a -> all_1 -> if_1",
        "split_1 -> b -> all_1",
        "if_1.true -> h",
        "if_1.false -> end",
        config={"if_1": {"expression": "not any(['#2' in x for x in input])"}},
    )

    ran = fleet.run(segment, 1)

    first = "[a(h(1)), b(h(1))]"
    assert ran.outputs == {"output": f"end([a#2(h#2({first})), b#2(h#2({first}))])"}
    assert ran.of("all_1") == ["step.started", "step.completed"] * 2


def test_an_early_join_takes_nothing_of_the_iteration_before(fleet: Fleet, gate: Path) -> None:
    segment = draw(
        "h -> split_1 -> a -> any_1 -> if_1",
        "split_1 -> b -> any_1",
        "if_1.true -> h",
        "if_1.false -> end",
        config={
            "b": {"gate": str(gate), "gate_at": 2},
            "if_1": {"expression": "not any(['#2' in x for x in input])"},
        },
    )

    run_id = fleet.start(segment, 1)
    eventually(lambda: ("if_1", 2) in over(fleet, run_id), "the second iteration's join")
    gate.touch()
    ran = fleet.wait(run_id)

    (taken,) = (e for e in ran.events if (e.event_type, e.step_id, e.visit) == ("step.started", "any_1", 2))
    assert set(taken.payload["input"]) == {"branch_1"}


def over(fleet: Fleet, run_id: str) -> set[tuple[str, int]]:
    return {record.row.key for record in fleet.store.steps("default", run_id) if record.row.finished_at is not None}


def test_a_loop_ends_at_its_limit_and_says_so(fleet: Fleet) -> None:
    ran = fleet.run(draw("count_1 -[true]-> count_1", "count_1 -> end", max_visits=5))

    assert (ran.status, ran.error_type) == ("failed", "LoopLimitError")
    assert ran.result.error is not None
    assert "5 times" in ran.result.error.error_message
    assert ran.states["count_1#5"] == "completed"
    assert "count_1#6" not in ran.states


def test_going_round_and_leaving_in_one_iteration_is_an_error(fleet: Fleet) -> None:
    ran = fleet.run(draw("h -> a -[true]-> h", "h -> b -[true]-> end"))

    assert (ran.status, ran.error_type) == ("failed", "LoopConflictError")


def test_the_entry_step_of_a_run_may_be_the_header_of_a_loop(fleet: Fleet) -> None:
    ran = fleet.run(draw("count_1 -[n < 12]-> count_1", "count_1 -> end"), {"n": 9})

    assert ran.outputs == {"output": 'end({"n": 12})'}
