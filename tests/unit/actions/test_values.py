"""Configurations, contexts and results as values, and when an attempt follows another."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam import codec
from llmteam.actions import ActionConfig, ActionContext, ActionResult, ActionStatus, ActionType, InvalidActionError
from llmteam.actions.policy import delay_before, is_transient, may_repeat


def test_both_spellings_of_a_configuration_are_one() -> None:
    ours = ActionConfig(
        action_id="a",
        action_type=ActionType.WEBHOOK,
        endpoint="https://x.example",
        timeout=timedelta(seconds=10),
        retry_count=2,
    )
    other = ActionConfig(
        name="a", action_type=ActionType.WEBHOOK, url="https://x.example", timeout_seconds=10.0, max_retries=2
    )

    assert ours == other
    assert (other.action_id, other.name, other.url) == ("a", "a", "https://x.example")
    assert (ours.timeout_seconds, ours.timeout, ours.max_retries) == (10.0, timedelta(seconds=10), 2)


def test_the_first_five_can_be_given_by_position() -> None:
    config = ActionConfig("a", ActionType.REST_API, "https://x.example", "put", {"X-A": "b"})

    assert (config.endpoint, config.method, config.headers) == ("https://x.example", "PUT", {"X-A": "b"})


def test_what_is_not_said_is_what_the_contract_says() -> None:
    config = ActionConfig("a", "webhook")

    assert (config.method, config.timeout, config.retry_count, config.headers) == ("POST", timedelta(seconds=30), 3, {})
    assert config.retry_statuses == {408, 425, 429, 500, 502, 503, 504}
    assert (config.auth_type, config.auth_config, config.idempotency_name) == ("", {}, "Idempotency-Key")
    assert (config.retry_delay, config.retry_backoff, config.retry_max_delay) == (
        timedelta(seconds=1),
        2.0,
        timedelta(seconds=60),
    )


def test_a_copy_with_changes_is_checked_too() -> None:
    config = ActionConfig("a", ActionType.WEBHOOK, "https://x.example")

    assert dataclasses.replace(config, timeout=5).timeout == timedelta(seconds=5)
    with pytest.raises(InvalidActionError):
        dataclasses.replace(config, retry_count=-1)


@pytest.mark.parametrize(
    "fields",
    [
        {"action_id": ""},
        {"action_id": "a\nb"},
        {"action_type": "carrier pigeon"},
        {"timeout": 0},
        {"timeout": "soon"},
        {"retry_delay": -1},
        {"method": "STEAL"},
        {"auth_type": "handshake"},
        {"retry_count": 1.5},
        {"retry_backoff": 0.5},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidActionError):
        ActionConfig(**{"action_id": "a", "action_type": ActionType.WEBHOOK, **fields})


def test_a_field_that_there_is_not_or_that_is_given_twice_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="colour"):
        ActionConfig("a", ActionType.WEBHOOK, colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="twice"):
        ActionConfig("a", ActionType.WEBHOOK, timeout=3, timeout_seconds=4)


def test_a_configuration_shows_no_address_and_no_header() -> None:
    config = ActionConfig("a", ActionType.WEBHOOK, "https://x.example/s3cret", headers={"X-Key": "s3cret"})

    assert "s3cret" not in repr(config)


@given(
    st.sampled_from(ActionStatus),
    st.one_of(st.none(), st.text(alphabet="abcä"), st.lists(st.integers())),
    st.integers(0, 599),
)
def test_a_result_survives_json(status: ActionStatus, data: object, code: int) -> None:
    result = ActionResult("a", status, data, code, retry_count=2, audit_metadata={"fallback": True})

    assert ActionResult.from_dict(codec.loads(codec.dumps(result.to_dict()))) == result
    assert (result.success, result.action_id, result.data) == (status is ActionStatus.COMPLETED, "a", data)


def test_a_context_has_the_contracts_defaults() -> None:
    context = ActionContext("a", "run", "agent", "acme")

    assert (context.input_data, context.pipeline_state, context.agent_context) == ({}, {}, {})
    assert context.correlation_id == ""
    assert context.timestamp.tzinfo is not None


WEBHOOK = ActionConfig("a", ActionType.WEBHOOK, "https://x.example")


@pytest.mark.parametrize(
    ("result", "transient"),
    [
        (ActionResult("a", ActionStatus.COMPLETED), False),
        (ActionResult("a", ActionStatus.TIMEOUT), True),
        (ActionResult("a", ActionStatus.CANCELLED), False),
        (ActionResult.failure("a", "HTTPStatusError", "", response_code=503), True),
        (ActionResult.failure("a", "HTTPStatusError", "", response_code=429), True),
        (ActionResult.failure("a", "HTTPStatusError", "", response_code=404), False),
        (ActionResult.failure("a", "HTTPStatusError", "", response_code=501), False),
        (ActionResult.of_exception("a", ConnectionResetError()), True),
        (ActionResult.of_exception("a", ValueError()), False),
    ],
)
def test_a_failure_that_may_pass_is_told_from_one_that_will_not(result: ActionResult, transient: bool) -> None:
    assert is_transient(WEBHOOK, result) is transient


def test_what_could_be_done_twice_is_not_repeated_without_a_key() -> None:
    late = ActionResult("a", ActionStatus.TIMEOUT)

    assert may_repeat(WEBHOOK, late)
    assert not may_repeat(dataclasses.replace(WEBHOOK, idempotency_header=""), late)
    assert may_repeat(dataclasses.replace(WEBHOOK, idempotency_header="", method="GET"), late)


@given(st.integers(1, 10_000), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1e9)))
def test_no_delay_is_over_the_cap_or_shorter_than_what_the_other_side_asks_for(
    retry: int, chance: float, asked: float | None
) -> None:
    delay = delay_before(WEBHOOK, retry, chance, asked).total_seconds()

    assert 0 <= delay <= 60
    assert delay >= min(asked or 0, 60) - 1e-6


def test_delays_grow_by_the_factor_until_the_cap() -> None:
    assert [delay_before(WEBHOOK, retry, 1.0).total_seconds() for retry in (1, 2, 3, 6, 7, 99)] == [1, 2, 4, 32, 60, 60]
