"""The parts of the trial of cuts: its shapes, its kinds of cuts, its table, and how beat is known to send again."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from chaos.steps import LOOP, PROCESS, THREAD, act_on_loop
from hosts import report, shapes
from hosts.network import CUTS, SERVERS, Kind
from hosts.report import Report, Row
from hosts.steps import CALLED, CALLED_APART, call
from hosts.trial import FULL, QUICK, sends_again
from llmteam.canvas import StepCatalog, validate_segment_dict
from llmteam.canvas.catalog import step_type
from tests.scenario import ROOT

PAGE = ROOT / "docs" / "hosts.md"
SENT, FAILED = "Scheduler: Sending due task sweep (llmteam.sweep)\n", "Message Error: Timeout connecting to server\n"


def found(**lines: list[str]) -> Report:
    rows = [Row(Kind.APART, "host-1", 2, 1, 3.25, 0.5), Row(Kind.DEAF, "host-2", 0, 0, None, 0.5)]
    return Report("namespaces", QUICK, 7, rows, lines, {"runs started": 40, "ended as expected": 40}, {})


@pytest.fixture
def step_types() -> None:
    """Known to whatever catalog the process has."""
    catalog = StepCatalog.get_instance()
    types = dict.fromkeys((THREAD, PROCESS, CALLED, CALLED_APART), call) | {LOOP: act_on_loop}
    for type_id, handler in types.items():
        if not catalog.has(type_id):
            step_type(type_id, catalog=catalog)(handler)


@pytest.mark.usefixtures("step_types")
@pytest.mark.parametrize("apart", [True, False])
def test_every_shape_is_sound(apart: bool) -> None:
    for shape in shapes.all_shapes(1.0, apart=apart).values():
        assert validate_segment_dict(shape.segment.to_dict()).errors == []


def test_workers_without_processes_get_no_steps_for_them() -> None:
    for shape in shapes.all_shapes(1.0, apart=False).values():
        assert not {step.step_type for step in shape.segment.steps} & {"chaos_process", "hosts_called_apart"}


def test_a_long_step_outlasts_the_cut() -> None:
    long = shapes.all_shapes(FULL.cut * 1.25, apart=True)[shapes.LONG]

    assert any(step.config.get("seconds", 0) > FULL.cut > FULL.lease for step in long.segment.steps)


def test_every_kind_of_cut_loses_something_and_stands_on_the_page() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("<!-- cuts -->")[2].partition("\n\n")[0]

    for kind in Kind:
        cut = CUTS[kind]
        assert set(cut.to) | set(cut.back)
        assert {*cut.to, *cut.back} <= set(SERVERS)
        assert f"\n| `{kind.word}` | {kind.value} |" in table


@pytest.mark.parametrize(
    ("log", "again"),
    [
        ("", False),
        (SENT, False),
        (SENT + SENT, True),
        (SENT + SENT + FAILED + SENT, False),
        (SENT + FAILED + SENT + SENT, True),
    ],
)
def test_beat_sends_again_once_a_message_went_out_without_a_complaint(log: str, again: bool) -> None:
    assert sends_again(log) is again


def test_a_trial_in_which_anything_was_found_has_not_passed() -> None:
    assert found(lost=[], stale=[]).passed
    assert not found(lost=["run-1: running"], stale=[]).passed


def test_the_table_says_what_hosts_were_and_what_was_missed() -> None:
    screen = io.StringIO()

    report.show(Console(file=screen, width=200), replace(found(lost=["run-1: running"]), network="forwarders"))

    text = screen.getvalue()
    assert "forwarders" in text
    assert "3.2 s" in text
    assert "never" in text
    assert "0 MISSED" in text
    assert "lost: run-1: running" in text


def test_a_document_has_each_cut_and_what_must_be_zero() -> None:
    document = found(lost=["run-1: running"]).document()

    assert [cut["kind"] for cut in document["cuts"]] == ["apart", "deaf"]
    assert document["must_be_zero"] == {"lost": 1}
    assert document["passed"] is False
