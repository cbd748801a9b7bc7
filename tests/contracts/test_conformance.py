"""What a segment means, wherever it runs: ports, branches, joins, inputs, outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmteam.canvas import AlreadyRunningError, RunConfig, SegmentDefinition, SegmentValidationError
from tests.conformance.fleets import Fleet, Ran, eventually
from tests.drawing import draw

NESTED = draw(
    "s -> split_1 -> a -> all_1 -> end",
    "split_1 -> split_2 -> b -> all_2",
    "split_2 -> c -> all_2 -> d -> all_1",
)


def went(ran: Ran, *steps: str) -> None:
    """The run ended well, and of all its steps these were run."""
    assert (ran.status, ran.result.error) == ("completed", None)
    assert {step for step, state in ran.states.items() if state == "completed"} == set(" ".join(steps).split())


def test_steps_in_a_row_hand_on_what_they_gave(fleet: Fleet) -> None:
    ran = fleet.run(draw("a -> b -> plain_c"), {"x": 1})

    went(ran, "a b plain_c")
    assert ran.outputs == {"output": 'plain_c(b(a({"x": 1})))'}
    assert (ran.result.steps_completed, ran.result.steps_total) == (3, 3)


def test_the_port_that_a_condition_names_is_the_way_on(fleet: Fleet) -> None:
    segment = draw(
        "a -> if_1", "if_1.true -> b", "if_1.false -> c -> d", config={"if_1": {"expression": "input == 'a(7)'"}}
    )

    yes, no = fleet.run(segment, 7), fleet.run(segment, 8)

    went(yes, "a if_1 b")
    assert (yes.states["c"], yes.states["d"]) == ("skipped", "skipped")
    went(no, "a if_1 c d")
    assert no.outputs == {"output": "d(c(a(8)))"}


@pytest.mark.parametrize(("n", "way"), [(1, "low"), (5, "middle"), (50, "high")])
def test_of_edges_with_conditions_the_first_that_holds_is_followed(fleet: Fleet, n: int, way: str) -> None:
    segment = draw("a -[n < 3]-> low", "a -[n < 9]-> middle", "a -> high", config={"a": {"answer": {"n": n}}})

    went(fleet.run(segment), f"a {way}")


def test_a_run_whose_last_step_follows_no_edge_is_done(fleet: Fleet) -> None:
    ran = fleet.run(draw("a -[n > 3]-> b", config={"a": {"answer": {"n": 1}}}))

    went(ran, "a")
    assert ran.outputs == {"n": 1}


def test_splits_and_joins_nest(fleet: Fleet) -> None:
    ran = fleet.run(NESTED)

    went(ran, "s split_1 a all_1 split_2 b all_2 c d end")
    assert ran.outputs == {"output": "end([a(s), d([b(s), c(s)])])"}


def test_a_join_waits_for_every_branch_that_can_still_come(fleet: Fleet) -> None:
    segment = draw(
        "s -> split_1 -> a -> all_1 -> end",
        "split_1 -> if_2",
        "if_2.true -> b -> all_1",
        "if_2.false -> c -> d",
        config={"if_2": {"expression": "input == 's(1)'"}},
    )

    assert fleet.run(segment, 1).outputs == {"output": "end([a(s(1)), b(s(1))])"}
    other = fleet.run(segment, 2)
    went(other, "s split_1 a all_1 end if_2 c d")
    assert other.outputs == {"end": "end([a(s(2))])", "d": "d(c(s(2)))"}


def test_a_join_that_no_branch_reaches_is_skipped_with_what_follows(fleet: Fleet) -> None:
    segment = draw("s -> if_1", "if_1.true -> a -> all_1", "if_1.true -> b -> all_1 -> end", "if_1.false -> c")

    ran = fleet.run(segment.model_copy(update={"steps": with_expression(segment, "if_1", "false")}))

    went(ran, "s if_1 c")
    assert ran.of("all_1") == ["step.skipped"]
    assert ran.of("end") == ["step.skipped"]


def with_expression(segment: SegmentDefinition, step_id: str, expression: str) -> list[object]:
    change = {"config": {"expression": expression}}
    return [step.model_copy(update=change) if step.step_id == step_id else step for step in segment.steps]


def test_any_goes_on_with_the_first_branch_and_lets_the_others_end(fleet: Fleet, gate: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    segment = draw(
        "s -> split_1 -> a -> any_1 -> end",
        "split_1 -> b -> any_1",
        config={"b": {"gate": str(gate)}, "end": {"mark": str(done)}},
    )

    run_id = fleet.start(segment)
    eventually(done.exists, "the step behind the join")
    gate.touch()
    ran = fleet.wait(run_id)

    went(ran, "s split_1 a any_1 end b")
    assert ran.outputs == {"output": "end([a(s)])"}
    assert ran.of("any_1") == ["step.started", "step.completed"]


def test_first_goes_on_with_the_first_branch_and_cancels_the_others(fleet: Fleet, gate: Path, tmp_path: Path) -> None:
    segment = draw(
        "s -> split_1 -> b -> b2 -> first_1 -> end",
        "split_1 -> a -> first_1",
        config={"b": {"gate": str(gate)}, "a": {"gate": str(tmp_path / "a")}},
    )

    run_id = fleet.start(segment)
    (tmp_path / "a").touch()
    ran = fleet.wait(run_id)

    went(ran, "s split_1 a first_1 end")
    assert (ran.states["b"], ran.states["b2"]) == ("cancelled", "cancelled")
    assert ran.outputs == {"output": "end([a(s)])"}


def test_a_split_of_many_branches_is_joined_in_the_order_of_the_ports(fleet: Fleet) -> None:
    branches = [f"split_1 -> b{number} -> all_1" for number in range(40)]

    ran = fleet.run(draw("s -> split_1", *branches, "all_1 -> end"))

    assert ran.outputs == {"output": f"end([{', '.join(f'b{number}(s)' for number in range(40))}])"}
    assert ran.of("all_1") == ["step.started", "step.completed"]


def test_without_parallel_execution_the_steps_behind_one_port_run_one_by_one(fleet: Fleet) -> None:
    ran = fleet.run(draw("s -> c", "s -> plain_a", "s -> b"))

    went(ran, "s c plain_a b")
    starts = [ran.seq("step.started", step) for step in ("c", "plain_a", "b")]
    ends = [ran.seq("step.completed", step) for step in ("c", "plain_a", "b")]
    assert starts[0] < ends[0] < starts[1] < ends[1] < starts[2] < ends[2]


def test_with_parallel_execution_they_run_at_once(fleet: Fleet, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    each_waits_for_the_other = {"a": {"mark": a, "gate": b}, "b": {"mark": b, "gate": a}}

    went(fleet.run(draw("s -> a", "s -> b", config=each_waits_for_the_other, parallel_execution=True)), "s a b")


def test_several_last_steps_each_have_their_output(fleet: Fleet) -> None:
    ran = fleet.run(draw("s -> a", "s -> b", config={"b": {"answer": {"n": 1}}}))

    assert ran.outputs == {"a": "a(s)", "b": {"n": 1}}
    assert ran.events[-1].payload == {"output": ran.outputs}


@pytest.mark.parametrize("answer", [None, 0, [], "", {"output": 5}, {"other": 5}, [{"x": None}]])
def test_a_last_step_may_give_any_json(fleet: Fleet, answer: object) -> None:
    ran = fleet.run(draw("a", config={"a": {"answer": answer}}))

    assert ran.outputs == (answer if isinstance(answer, dict) else {"output": answer})


def test_an_input_has_one_value_per_port_and_of_two_the_later_edge_wins(fleet: Fleet) -> None:
    segment = draw("s -> split_1 -> a -> end", "split_1 -> b -> end", "split_1 -> c")
    edges = [
        edge.model_copy(update={"target_port": "left"}) if edge.source_step == "c" else edge for edge in segment.edges
    ]

    assert fleet.run(segment.model_copy(update={"edges": edges})).outputs["end"] == "end(b(s))"


def test_ports_that_a_handler_names_go_their_own_ways(fleet: Fleet) -> None:
    ports = {"output": "o", "side": "x"}
    segment = draw("a -> b", "a.side -> c", config={"a": {"ports": ports}})

    assert fleet.run(segment).outputs == {"b": "b(o)", "c": "c(x)"}


def test_a_run_gets_its_input_however_large_it_is(fleet: Fleet) -> None:
    text = "ä" * 9_000

    assert fleet.run(draw("a"), text).outputs == {"output": f"a({text})"}


def test_large_answers_go_on_whole_and_stand_in_events_by_reference(fleet: Fleet) -> None:
    ran = fleet.run(draw("a -> b", config={"a": {"size": 20_000}}))

    assert ran.outputs == {"output": f"b({'x' * 20_000})"}
    (told,) = [event for event in ran.events if (event.event_type, event.step_id) == ("step.completed", "a")]
    assert set(told.payload["output"]) == {"$ref", "bytes"}


def test_an_id_starts_one_run(fleet: Fleet) -> None:
    segment = draw("a")
    first = fleet.run(segment).result.run_id

    assert fleet.start(segment, run_id=first) == first
    with pytest.raises(AlreadyRunningError, match="with another segment or other input"):
        fleet.start(segment, {"other": "input"}, run_id=first)

    assert [event.event_type for event in fleet.wait(first).events].count("segment.started") == 1


def test_an_unsound_segment_is_refused_and_nothing_is_written(fleet: Fleet) -> None:
    with pytest.raises(SegmentValidationError, match="cycle"):
        fleet.start(draw("a -> b -> a"), run_id="unsound")

    assert fleet.call(fleet.runner.get_status("unsound")) is None


def test_events_are_numbered_without_gap_and_the_last_one_ends_the_run(fleet: Fleet) -> None:
    events = fleet.run(NESTED).events

    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (events[0].event_type, events[-1].event_type) == ("segment.started", "segment.completed")
    assert {event.segment_id for event in events} == {"drawn"}
    assert len(events) == 2 + 2 * 10


def test_callbacks_come_in_the_order_of_what_happened(fleet: Fleet) -> None:
    told: list[object] = []
    config = RunConfig(
        max_retries=0,
        on_step_start=lambda step, value: told.append(("start", step, value)),
        on_step_complete=lambda step, value: told.append(("done", step, value)),
        on_step_error=lambda step, error: told.append(("error", step, error.info.error_type)),
    )

    fleet.run(draw("a -> b", "b.error -> c", config={"b": {"fail": 1}}), 5, config=config)

    failure = {"input": {"error_type": "ValueError", "error_message": "attempt 1 failed"}}
    assert told[:5] == [
        ("start", "a", 5),
        ("done", "a", "a(5)"),
        ("start", "b", {"input": "a(5)"}),
        ("error", "b", "ValueError"),
        ("start", "c", failure),
    ]
    assert len(told) == 6
