"""What a trial says at the end: its figures, its longest stall, and whether everything held."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from chaos.report import Report, figures, show
from chaos.schedule import Kind
from chaos.stalls import Stall, longest, patience, worst_of
from llmteam.canvas import SegmentDefinition, StepDefinition
from tests.unit.chaos.test_checks import TOLD, WELL, log

REPORT = Report(
    seed=7,
    runs=1,
    seconds=10.0,
    settled=1.5,
    found={"lost": [], "effects missing": []},
    done=[(0.5, Kind.FLUSH, "valkey"), (2.0, Kind.FLUSH, "valkey")],
    figures={"runs started": 1, "ended as expected": 1},
    stall=Stall(2.25, "r", "step.started a#1"),
    shapes={"chain": 1},
)


def printed(report: Report) -> str:
    out = StringIO()
    show(Console(file=out, width=100), report)
    return out.getvalue()


def test_a_trial_has_passed_when_every_check_found_nothing() -> None:
    assert REPORT.passed
    assert not replace(REPORT, found={"lost": ["r: running"], "effects missing": []}).passed


def test_the_table_has_a_row_for_each_figure_each_check_and_each_kind_of_fault() -> None:
    table = printed(REPORT)

    for name in (*REPORT.figures, *REPORT.found, *Kind, "2.2 s", "seed 7"):
        assert name in table
    assert "MISSED" not in table


def test_what_a_check_found_stands_below_the_table() -> None:
    lines = [f"r-{number}: running" for number in range(12)]

    table = printed(replace(REPORT, found={"lost": lines}))

    assert "0 MISSED" in table
    assert "lost: r-9: running" in table
    assert "r-10: running" not in table
    assert "lost: and 2 more" in table


def test_the_document_says_how_to_have_the_trial_again_and_what_was_done() -> None:
    document = REPORT.document()

    assert (document["seed"], document["passed"]) == (7, True)
    assert document["must_be_zero"] == {"lost": 0, "effects missing": 0}
    assert document["faults"]["Valkey flushed"] == 2
    assert document["schedule"][0] == {"at": 0.5, "kind": "flush", "victim": "valkey"}


def test_figures_count_runs_leases_and_deliveries() -> None:
    lost = replace(WELL, run_id="s", effects={}, steps=[replace(WELL.steps[0], losses=2)])

    counted = figures([WELL, lost], {"lost": ["s: running"], "ended otherwise": []})

    assert counted == {
        "runs started": 2,
        "ended as expected": 1,
        "steps": 3,
        "leases that ran out": 2,
        "effects after deduplication": 1,
        "effects delivered again (allowed)": 1,
    }


def test_a_stall_is_time_in_which_nothing_happened() -> None:
    assert longest(log(*TOLD), {}, 1.0) == Stall(1.0, "r", "segment.started")


def test_the_time_that_a_step_takes_by_itself_is_none() -> None:
    events = log(("segment.started", None), ("step.started", "a"), ("step.completed", "a"))
    events = [*events[:2], replace(events[2], ts=events[1].ts.replace(second=12))]

    assert longest(events, {}, 1.0) == Stall(10.0, "r", "step.started a#1")
    assert longest(events, {"a": 7.5}, 1.0) == Stall(2.5, "r", "step.started a#1")
    assert longest(events, {"a": 60.0}, 1.0) == Stall(1.0, "r", "segment.started")


def test_the_pause_before_a_retry_is_none() -> None:
    events = log(("step.retrying", "a"), ("step.started", "a"))

    assert longest(events, {}, 0.25).seconds == 0.75
    assert longest(events, {}, 1.0).seconds == 0.0


def test_a_lost_lease_ends_the_patience_with_a_step() -> None:
    events = log(("step.started", "a"), ("step.lost", "a"), ("step.started", "a"))

    assert longest(events, {"a": 60.0}, 1.0) == Stall(1.0, "r", "step.lost a#1")


def test_the_longest_of_all_stalls_is_told() -> None:
    assert worst_of([Stall(1.0, "a"), Stall(3.0, "b"), Stall(2.0, "c")]).run_id == "b"
    assert worst_of([]) == Stall(0.0)


def test_a_step_takes_as_long_as_its_configuration_says() -> None:
    steps = [
        StepDefinition(step_id="a", step_type="t", config={"seconds": 2, "hang": 3}),
        StepDefinition(step_id="b", step_type="t"),
    ]

    assert patience(SegmentDefinition(segment_id="s", name="S", steps=steps)) == {"a": 5.0, "b": 0.0}
