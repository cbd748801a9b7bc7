"""Chords: which hints go out as one, and who brings the hint of the join."""

from __future__ import annotations

import pytest

from llmteam.canvas.graph import Graph
from llmteam.canvas.state import CHORD_GRACE, HINT_AFTER, SegmentStatus
from tests.drawing import graph
from tests.unit.canvas.plays import Play

CHORD = "chord-1"


def sent(drawn: Graph) -> Play:
    """A run whose split went out as a chord."""
    run = Play(drawn)
    if "s" in drawn.nodes:
        run.do("s")
    run.begin("split_1")
    run.change = run.end("split_1", chord_id=CHORD)  # type: ignore[attr-defined]
    return run


def both() -> Play:
    return sent(graph("split_1 -> a -> all_1 -> end", "split_1 -> b -> all_1"))


def test_the_heads_of_a_split_know_their_chord() -> None:
    run = both()

    assert run.change.chord == CHORD  # type: ignore[attr-defined]
    assert {step: run.rows[step, 1].chord_id for step in ("split_1", "a", "b", "all_1")} == {
        **dict.fromkeys(("split_1", "a", "b"), CHORD),
        "all_1": None,
    }


def test_the_last_head_leaves_the_joins_hint_to_the_body() -> None:
    run = both()
    run.begin("a", "b")
    run.end("a", delivered_chord=CHORD)

    change = run.end("b", delivered_chord=CHORD)

    assert change.ready == []
    assert run.rows["all_1", 1].wake_at == run.now + CHORD_GRACE


@pytest.mark.parametrize("delivered", [None, "another chord"])
def test_a_head_that_came_otherwise_sends_it(delivered: str | None) -> None:
    run = both()
    run.begin("a", "b")
    run.end("a", delivered_chord=CHORD)

    change = run.end("b", delivered_chord=delivered)  # type: ignore[arg-type]

    assert change.ready == [("all_1", 1)]
    assert run.rows["all_1", 1].wake_at == run.now + HINT_AFTER


def test_a_step_behind_a_head_sends_it() -> None:
    run = sent(graph("split_1 -> a -> a2 -> all_1", "split_1 -> b -> all_1"))
    run.begin("a", "b")
    run.end("b", delivered_chord=CHORD)
    run.end("a", delivered_chord=CHORD)
    run.begin("a2")

    assert run.end("a2").ready == [("all_1", 1)]


def test_a_head_brings_no_hint_but_that_of_its_join() -> None:
    run = sent(graph("split_1 -> a -> a2 -> all_1", "split_1 -> b -> all_1"))
    run.begin("a")

    assert run.end("a", delivered_chord=CHORD).ready == [("a2", 1)]


def test_one_live_head_is_no_chord() -> None:
    run = Play(graph("split_1 -> a -> all_1", "split_1 -> b -> all_1"))
    run.begin("split_1")

    change = run.end("split_1", "a", chord_id=CHORD)

    assert (change.chord, change.ready, run.rows["a", 1].chord_id) == (None, [("a", 1)], None)


def test_what_else_becomes_due_with_the_heads_is_no_part_of_the_chord() -> None:
    run = sent(graph("s -> split_1 -> a -> all_1", "split_1 -> b -> all_1", "s -> long"))

    change = run.change  # type: ignore[attr-defined]
    assert set(change.ready) == {("a", 1), ("b", 1), ("long", 1)}
    assert run.rows["long", 1].chord_id is None


def test_a_split_that_is_no_chord_ignores_the_id() -> None:
    run = Play(graph("split_1 -> a -> any_1", "split_1 -> b -> any_1"))
    run.begin("split_1")

    change = run.end("split_1", chord_id=CHORD)

    assert (change.chord, run.rows["split_1", 1].chord_id) == (None, None)


def test_a_chord_whose_run_fails_meanwhile_brings_nothing() -> None:
    run = both()
    run.begin("a", "b")

    change = run.fail("a")

    assert (run.status, change.chord, change.ready) == (SegmentStatus.FAILED, None, [])
    assert not run.end("b", delivered_chord=CHORD).applied


def test_each_iteration_of_a_loop_has_a_chord_of_its_own() -> None:
    run = Play(graph("h -> split_1 -> a -> all_1 -[x]-> h", "split_1 -> b -> all_1 -> end"))

    for number, target in enumerate(("h", "end")):
        run.do("h")
        run.begin("split_1")
        run.end("split_1", chord_id=f"chord-{number}")
        run.begin("a", "b")
        run.end("a", delivered_chord=f"chord-{number}")
        assert run.end("b", delivered_chord=f"chord-{number}").ready == []
        run.do("all_1", all_1=target)

    assert run.rows["a", 2].chord_id == "chord-1"
