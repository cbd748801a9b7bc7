"""Whether a failed attempt is followed by another, and when. Pure."""

from __future__ import annotations

from datetime import timedelta

from llmteam.actions.models import ActionConfig, ActionResult, ActionStatus


def is_transient(config: ActionConfig, result: ActionResult) -> bool:
    """Whether the failure may be over at the next attempt. Limits, circuits and answers that do not fit are not."""
    if result.status is ActionStatus.TIMEOUT:
        return result.retryable is not False
    if result.status is not ActionStatus.FAILED:
        return False
    if result.response_code:
        return result.response_code in config.retry_statuses
    return result.retryable is True


def may_repeat(config: ActionConfig, result: ActionResult) -> bool:
    """Whether another attempt may help, and does no harm."""
    return config.repeatable and is_transient(config, result)


def delay_before(config: ActionConfig, retry: int, chance: float, retry_after: float | None = None) -> timedelta:
    """How long to wait before the retry of this number (from 1): full jitter by ``chance`` (0 to 1), under the cap.

    What the other side asked for is kept, up to the same cap.
    """
    longest = config.retry_max_delay.total_seconds()
    grown = min(config.retry_delay.total_seconds() * config.retry_backoff ** min(retry - 1, 64), longest)
    return timedelta(seconds=max(grown * chance, min(retry_after or 0.0, longest)))
