"""Settings of circuits, and what a call says of its resource."""

from __future__ import annotations

import asyncio
import pickle
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from llmteam.errors import LLMTeamError
from llmteam.ratelimit.circuits.rules import outcome_of
from llmteam.ratelimit.decisions import Outcome
from llmteam.ratelimit.exceptions import CircuitOpenError, InvalidLimitError, QueueFullError, RateLimitExceeded
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitBreakerStats, OnBackendError, RateLimitConfig


def test_a_config_has_the_documented_defaults() -> None:
    config = CircuitBreakerConfig()

    assert (config.failure_threshold, config.failure_rate_threshold, config.sample_size) == (5, 0.5, 10)
    assert (config.open_timeout, config.half_open_max_requests, config.success_threshold) == (timedelta(0, 30), 3, 2)


@pytest.mark.parametrize(
    ("failures", "total", "opens"),
    [(5, 5, True), (4, 4, False), (4, 9, False), (4, 10, False), (5, 10, True), (0, 0, False)],
)
def test_a_config_opens_by_count_or_by_share(failures: int, total: int, opens: bool) -> None:
    assert CircuitBreakerConfig().should_open(failures, total) is opens


def test_a_share_needs_the_whole_sample() -> None:
    config = CircuitBreakerConfig(failure_threshold=100, sample_size=10)

    assert [config.should_open(*of) for of in [(9, 9), (4, 10), (5, 10)]] == [False, False, True]


@pytest.mark.parametrize("seconds", [30, 30.0, timedelta(seconds=30)])
def test_a_timeout_may_be_a_number_of_seconds(seconds: Any) -> None:
    assert CircuitBreakerConfig(open_timeout=seconds).open_timeout == timedelta(seconds=30)


@pytest.mark.parametrize(
    "settings",
    [
        {"failure_threshold": 0},
        {"failure_threshold": 2.5},
        {"sample_size": 1_001},
        {"half_open_max_requests": 0},
        {"success_threshold": 0},
        {"failure_rate_threshold": 0},
        {"failure_rate_threshold": 1.01},
        {"failure_rate_threshold": float("nan")},
        {"open_timeout": -1},
        {"open_timeout": timedelta(days=31)},
        {"open_jitter": 1.5},
        {"window_seconds": 0},
        {"slow_call_seconds": 0},
        {"trial_seconds": float("inf")},
        {"on_backend_error": "ajar"},
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidLimitError, match="ajar" if "on_backend_error" in settings else next(iter(settings))):
        CircuitBreakerConfig(**settings)


def test_settings_that_cannot_be_used_are_a_value_error_like_any_other_wrong_value() -> None:
    with pytest.raises(ValueError, match="burst_size is -1"):
        RateLimitConfig(burst_size=-1)


def test_a_choice_may_be_text() -> None:
    config = CircuitBreakerConfig(on_backend_error="closed")  # type: ignore[arg-type]

    assert config.on_backend_error is OnBackendError.CLOSED


def test_a_failure_rate_is_of_what_ended() -> None:
    assert CircuitBreakerStats().failure_rate == 0.0
    assert CircuitBreakerStats(successful_requests=3, failed_requests=1, rejected_requests=9).failure_rate == 0.25


class StatusError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.response = SimpleNamespace(status_code=status)


class BadRequestError(LLMTeamError):
    retryable = False


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.SUCCESS),
        (ValueError("of any kind"), Outcome.FAILURE),
        (TimeoutError(), Outcome.FAILURE),
        (StatusError(500), Outcome.FAILURE),
        (StatusError(429), Outcome.FAILURE),
        (StatusError(408), Outcome.FAILURE),
        (StatusError(404), Outcome.IGNORED),
        (StatusError(401), Outcome.IGNORED),
        (BadRequestError(), Outcome.IGNORED),
        (RateLimitExceeded("vendor"), Outcome.IGNORED),
        (QueueFullError("vendor", 3), Outcome.IGNORED),
        (CircuitOpenError("other"), Outcome.IGNORED),
        (asyncio.CancelledError(), Outcome.IGNORED),
        (KeyboardInterrupt(), Outcome.IGNORED),
    ],
)
def test_errors_of_the_resource_count_and_others_do_not(error: BaseException | None, outcome: Outcome) -> None:
    assert outcome_of(CircuitBreakerConfig(), error) is outcome


def test_is_failure_decides_on_errors_and_values() -> None:
    def is_failure(result: Any) -> bool | str:
        if isinstance(result, StatusError):
            return Outcome.SUCCESS if result.response.status_code == 404 else True
        return isinstance(result, dict) and result["status"] == "failed"

    config = CircuitBreakerConfig(is_failure=is_failure)

    judged = [
        outcome_of(config, StatusError(401)),
        outcome_of(config, StatusError(404)),
        outcome_of(config, ValueError()),
        outcome_of(config, value={"status": "failed"}),
        outcome_of(config, value={"status": "done"}),
    ]
    assert judged == [Outcome.FAILURE, Outcome.SUCCESS, Outcome.IGNORED, Outcome.FAILURE, Outcome.SUCCESS]


def test_is_failure_is_not_asked_about_refusals_and_cancellation() -> None:
    config = CircuitBreakerConfig(is_failure=lambda result: True)

    judged = [outcome_of(config, error) for error in (RateLimitExceeded("vendor"), asyncio.CancelledError())]

    assert judged == [Outcome.IGNORED, Outcome.IGNORED]


def test_a_refusal_survives_pickling_with_its_time() -> None:
    error = pickle.loads(pickle.dumps(CircuitOpenError("vendor", 12.5)))

    assert (error.name, error.retry_after, str(error)) == ("vendor", 12.5, str(CircuitOpenError("vendor", 12.5)))
