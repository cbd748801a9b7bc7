"""How a run may be configured: two spellings of one timeout, and numbers that make sense."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from llmteam.canvas import RunConfig
from llmteam.canvas.results import run_options
from tests.drawing import draw


def test_the_two_spellings_of_the_timeout_fill_each_other() -> None:
    assert RunConfig(timeout_seconds=90).timeout == timedelta(seconds=90)
    assert RunConfig(timeout=timedelta(minutes=2)).timeout_seconds == 120
    assert RunConfig(timeout_seconds=60, timeout=timedelta(minutes=1)).timeout_seconds == 60


def test_two_different_timeouts_are_refused() -> None:
    with pytest.raises(ValueError, match="give one"):
        RunConfig(timeout_seconds=60, timeout=timedelta(minutes=2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -1},
        {"timeout_seconds": 0},
        {"timeout_seconds": -5},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": float("inf")},
        {"step_timeout": 0},
        {"retry_delay": -1},
        {"retry_delay": float("nan")},
        {"retry_delay": timedelta(seconds=-1)},
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong

    with pytest.raises(ValueError, match=name):
        RunConfig(**wrong)


def test_the_callers_settings_come_before_the_segments() -> None:
    segment = draw("a", max_retries=7, timeout_seconds=50)

    assert run_options(segment, None).max_retries == 7
    assert run_options(segment, None).timeout_seconds == 50
    chosen = run_options(segment, RunConfig(timeout_seconds=9, retry_delay=timedelta(milliseconds=200)))
    assert (chosen.max_retries, chosen.timeout_seconds, chosen.retry_delay) == (3, 9, 0.2)
    assert run_options(segment, RunConfig()).timeout_seconds == 50
