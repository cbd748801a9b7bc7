from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from llmteam.canvas.exceptions import RunNotFoundError, SegmentValidationError
from llmteam.cli import codes, render
from llmteam.cli.render import steps_done
from llmteam.errors import ConfigurationError, InfrastructureError, LLMTeamError, MigrationsNotAppliedError


def test_a_table_in_a_pipe_is_columns_without_colour_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(["RUN", "WHY"], [["r1", "x" * 300], ["run-2", None]], "none")

    assert capsys.readouterr().out == f"RUN    WHY\nr1     {'x' * 300}\nrun-2\n"


def test_an_empty_table_says_so_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(["RUN"], [], "no runs")

    assert capsys.readouterr() == ("", "no runs\n")


def test_nothing_in_a_table_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(["A"], [["\x1b]0;owned\x07\x9b2J"]], "")

    assert capsys.readouterr().out == "A\n\\x1b]0;owned\\x07\\x9b2J\n"


def test_json_stays_json_and_holds_no_control_characters() -> None:
    value = {"text": "é\x9b2J\x1b", "when": datetime(2026, 1, 1, tzinfo=UTC)}

    text = render.json_text(value)

    assert json.loads(text) == {"text": "é\x9b2J\x1b", "when": "2026-01-01 00:00:00+00:00"}
    assert "é" in text
    assert not set(text) & {"\x9b", "\x1b"}


@pytest.mark.parametrize(
    ("completed", "total", "shown"), [(2, 3, "2 of 3 steps"), (3, 3, "3 of 3 steps"), (7, 3, "3 steps, 7 times in all")]
)
def test_a_loop_completes_no_more_steps_than_there_are(completed: int, total: int, shown: str) -> None:
    assert steps_done(completed, total) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0123, "12 ms"), (1.25, "1.2 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")],
)
def test_durations_are_in_a_persons_units(seconds: float, shown: str) -> None:
    assert render.duration(seconds) == shown
    assert render.cell(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InfrastructureError("away"), 3),
        (MigrationsNotAppliedError("old"), 3),
        (ConfigurationError("wrong"), 2),
        (SegmentValidationError("unsound"), 2),
        (RunNotFoundError("r"), 2),
        (LLMTeamError("failed"), 1),
    ],
)
def test_the_exit_code_tells_the_kind_of_error(error: Exception, code: int) -> None:
    assert codes.code_of(error) == code
