"""Long and wide segments, and branches that go their own way inside a chord, wherever a segment runs."""

from __future__ import annotations

from llmteam.canvas import RunConfig
from tests.conformance.fleets import Fleet
from tests.drawing import draw


def row(length: int) -> str:
    return " -> ".join(f"s{number}" for number in range(length))


def test_a_long_row_of_steps_gets_to_its_end(fleet: Fleet) -> None:
    length = fleet.capabilities.row
    last = f"s{length - 1}"
    segment = draw(
        row(length), timeout_seconds=60, config={f"s{number}": {"answer": number} for number in range(length)}
    )

    ran = fleet.run(segment)

    assert ran.outputs == {"output": length - 1}
    assert ran.result.steps_completed == length
    assert ran.of(last) == ["step.started", "step.completed"]


def test_a_long_row_that_is_not_taken_is_skipped_in_one_transition(fleet: Fleet) -> None:
    length = fleet.capabilities.row
    segment = draw("if_1.false -> end", f"if_1.true -> {row(length)}", config={"if_1": {"expression": "false"}})

    ran = fleet.run(segment, 1)

    assert ran.outputs == {"output": "end(1)"}
    assert sum(state == "skipped" for state in ran.states.values()) == length
    skipped = [event.seq or 0 for event in ran.events if event.event_type == "step.skipped"]
    assert skipped == list(range(skipped[0], skipped[0] + length))


def test_branches_that_are_tried_again_or_are_longer_than_others_reach_the_join(fleet: Fleet) -> None:
    segment = draw(
        "s -> split_1 -> a -> all_1 -> end",
        "split_1 -> b -> b2 -> b3 -> all_1",
        "split_1 -> count_c -[n < 2]-> count_c",
        "count_c -> all_1",
        "split_1 -> if_d",
        "if_d.true -> d -> all_1",
        "if_d.false -> all_1",
        config={"a": {"fail": 2}, "b3": {"fail": 1}},
    )

    ran = fleet.run(segment, config=RunConfig(retry_delay=0.001))

    assert ran.outputs == {"output": 'end([a(s), b3(b2(b(s))), {"n": 2}, d(s)])'}
    assert ran.of("all_1") == ["step.started", "step.completed"]


def test_many_small_runs_at_once_each_get_their_own_answer(fleet: Fleet) -> None:
    segment = draw("s -> split_1 -> a -> all_1 -> end", "split_1 -> b -> all_1")

    started = [fleet.start(segment, number) for number in range(20)]

    assert [fleet.wait(run_id).outputs["output"] for run_id in started] == [
        f"end([a(s({number})), b(s({number}))])" for number in range(20)
    ]
