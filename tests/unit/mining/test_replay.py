"""Replay of runs on their definition: what the state machine does fits, and what was edited is found and named."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.canvas.stores import MemoryRunStore
from llmteam.events import MemoryEventStore
from llmteam.mining.records import StoredEvent, StoredRun
from llmteam.mining.replay import Net, Replayed, replay
from tests.conformance.desk import Desk
from tests.drawing import draw
from tests.mined import at, drawn_net, net_of_segment, run_of, told

CHAIN = drawn_net("a -> b -> c")
WAYS = draw("a -> split_1", "split_1 -> x -> all_1", "split_1 -> y -> z -> all_1", "all_1 -> end")


def memory_desk() -> Desk:
    events = MemoryEventStore()
    return Desk(MemoryRunStore(sink=events.add), events)


@pytest.fixture(scope="module")
def untouched() -> StoredRun:
    """A run with branches, as it was."""
    desk = memory_desk()
    run_id = desk.start(WAYS)
    desk.do(run_id, "a", "split_1", "y", "x", "z", "all_1", "end")
    assert desk.status(run_id) == "completed"
    return run_of(desk, run_id)


def chain(*lines: str, status: str = "completed") -> Replayed:
    return replay(CHAIN, told(*lines), status=status)


WHOLE = (
    "0 segment.started", "0 step.started a", "1 step.completed a", "1 step.started b", "2 step.completed b",
    "2 step.started c", "3 step.completed c", "3 segment.completed",
)  # fmt: skip


def said(found: Replayed) -> list[tuple[int | None, str, str]]:
    return [(one.seq, one.step_id, one.what) for one in found.deviations]


def test_a_run_as_its_definition_says_fits_and_tells_where_it_went() -> None:
    found = chain(*WHOLE)

    assert (found.fitness, found.deviations) == (1.0, [])
    assert found.followed == {("a", "b"): 1, ("b", "c"): 1}
    assert found.path == ["a", "b", "c"]


def test_a_run_on_the_way_has_nothing_left_to_do_yet() -> None:
    assert chain(*WHOLE[:4], status="running").fitness == 1.0
    assert chain(*WHOLE[:4], "2 segment.failed", status="failed").fitness == 1.0


@pytest.mark.parametrize(
    ("status", "kept", "end"),
    [
        ("completed", 7, "segment.completed"),
        ("failed", 4, "segment.failed"),
        ("timeout", 4, "segment.failed"),
        ("cancelled", 4, "segment.cancelled"),
    ],
)
def test_a_log_that_breaks_off_before_the_run_was_over_is_not_finished(status: str, kept: int, end: str) -> None:
    whole = chain(*WHOLE[:kept], f"3 {end}", status=status)
    cut = chain(*WHOLE[:kept], status=status)

    assert (whole.fitness, whole.deviations) == (1.0, [])
    assert said(cut) == [(None, "", f"not finished: the run is {status}, and no event says so")]
    assert cut.fitness < 1.0


def test_an_event_that_was_taken_out_leaves_a_gap_that_is_named() -> None:
    events = told(*WHOLE)

    found = replay(CHAIN, [*events[:3], *events[5:]], status="completed")

    assert found.fitness < 1.0
    assert said(found) == [
        (6, "c", "events 4 to 5 before it not there"),
        (6, "c", "'b' before it was not over"),
        (None, "b", "'a' is over, and it neither began nor was skipped"),
    ]


@pytest.mark.parametrize(
    ("lines", "deviation"),
    [
        ((*WHOLE[:3], *WHOLE[5:]), (4, "c", "'b' before it was not over")),
        ((*WHOLE[:2], *WHOLE[3:]), (3, "b", "'a' before it was not over")),
        ((*WHOLE[:3], *WHOLE[4:]), (4, "b", "it ended without having begun")),
        ((*WHOLE[:2], *WHOLE[1:]), (3, "a", "it began while it was running")),
        ((*WHOLE[:3], *WHOLE[2:]), (4, "a", "it was over before")),
        ((*WHOLE[:7], "3 step.started d", WHOLE[7]), (8, "d", "the definition has no such step")),
        ((*WHOLE[:5], WHOLE[7]), (None, "c", "'b' is over, and it neither began nor was skipped")),
        ((*WHOLE[:6], WHOLE[7]), (None, "c", "visit 1 began and never ended")),
        ((*WHOLE[:5], "2 step.skipped c", WHOLE[7]), None),
        ((WHOLE[0], WHOLE[7]), (None, "a", "the step that runs first never began")),
        ((*WHOLE[:6], "2 step.skipped c", *WHOLE[6:]), (7, "c", "it was skipped, and had begun")),
    ],
)
def test_a_log_that_was_edited_is_found_and_named(
    lines: tuple[str, ...], deviation: tuple[int | None, str, str] | None
) -> None:
    found = chain(*lines)

    assert (found.fitness == 1.0) is (deviation is None)
    assert deviation is None or deviation in said(found)


def test_a_skip_of_what_was_followed_is_named_when_the_row_says_so() -> None:
    events = told(*WHOLE[:5], "2 step.skipped c", WHOLE[7], e5={"decisions": (1,)})

    found = replay(CHAIN, events, status="completed")

    assert said(found) == [(6, "c", "it was skipped, and an edge into it was followed")]


def test_a_start_of_what_was_not_followed_is_named_when_the_row_says_so() -> None:
    events = told(*WHOLE, e5={"decisions": (0,)})

    assert said(replay(CHAIN, events, status="completed")) == [(6, "c", "it began, and no edge into it was followed")]


def test_attempts_losses_and_pauses_are_no_deviation() -> None:
    lines = [
        "0 segment.started", "0 step.started a", "1 step.retrying a", "2 step.started a", "3 step.lost a",
        "4 step.started a", "5 step.released a", "6 step.started a", "7 segment.paused", "8 segment.resumed",
        "9 step.started a", "9 step.completed a", *WHOLE[3:],
    ]  # fmt: skip

    assert said(chain(*lines)) == []


def test_who_was_asked_before_a_pause_may_answer_behind_it() -> None:
    net = drawn_net("human_1")
    lines = ["0 step.started human_1", "0 human.task_created human_1", "1 segment.paused", "2 step.completed human_1"]
    lines.append("2 segment.completed")

    assert said(replay(net, told(*lines), status="completed")) == []


def test_a_run_that_took_steps_over_has_no_events_of_them() -> None:
    lines = ["0 segment.started", "0 step.started c", "1 step.completed c", "1 segment.completed"]

    assert replay(CHAIN, told(*lines), status="completed", linked=True).fitness == 1.0
    assert chain(*lines).fitness < 1.0


def test_branches_in_any_order_fit(untouched: StoredRun) -> None:
    assert said(replay(net_of_segment(WAYS), untouched.events, status="completed")) == []


@given(st.data())
def test_a_run_with_an_event_taken_out_moved_or_renamed_does_not_fit(untouched: StoredRun, data: st.DataObject) -> None:
    events = list(untouched.events)
    net = net_of_segment(WAYS)
    place = data.draw(st.integers(1, len(events) - 1))

    edited = data.draw(st.sampled_from([without(events, place), renamed(events, place), doubled(events, place)]))

    found = replay(net, edited, status="completed")
    assert found.fitness < 1.0
    assert found.deviations


def without(events: list[StoredEvent], place: int) -> list[StoredEvent]:
    """One event less, and the later ones numbered as if it had never been."""
    return numbered([*events[:place], *events[place + 1 :]])


def renamed(events: list[StoredEvent], place: int) -> list[StoredEvent]:
    return [*events[:place], events[place]._replace(step_id="elsewhere"), *events[place + 1 :]]


def doubled(events: list[StoredEvent], place: int) -> list[StoredEvent]:
    return numbered([*events[: place + 1], *events[place:]])


def numbered(events: list[StoredEvent]) -> list[StoredEvent]:
    return [event._replace(seq=seq) for seq, event in enumerate(events, 1)]


def test_a_loop_may_go_round_and_be_left() -> None:
    net: Net = drawn_net("a -> if_1", "if_1.true -> a", "if_1.false -> end")
    both = [(n, step) for n in (1, 2, 3) for step in ("a", "if_1")]
    rounds = [f"{n} step.{what} {step}#{n}" for n, step in both for what in ("started", "completed")]
    end, over = ["4 step.started end", "4 step.completed end"], "5 segment.completed"

    assert said(replay(net, told(*rounds, *end, over), status="completed")) == []
    assert said(replay(net, told(*rounds, over), status="completed")) == [
        (None, "end", "'if_1' is over, and it neither began nor was skipped")
    ]
    found = replay(net, told(*rounds[:4], *rounds[5:], *end), status="completed")
    assert (5, "a", "it ended without having begun") in said(found)


def test_times_play_no_part_in_a_replay() -> None:
    later = [event._replace(at=at(0) + timedelta(days=1)) for event in told(*WHOLE)]

    assert replay(CHAIN, later, status="completed").fitness == 1.0
