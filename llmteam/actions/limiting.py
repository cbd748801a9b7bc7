"""One attempt behind a rate limiter and a circuit breaker, whose own retries are off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from llmteam.actions.exceptions import ActionError
from llmteam.actions.models import ActionConfig, ActionResult, ActionStatus
from llmteam.actions.policy import is_transient
from llmteam.ratelimit.registry import LimitRegistry

Attempt = Callable[[], Awaitable[ActionResult]]


class Limiter(Protocol):
    """What limits calls, like a :class:`~llmteam.ratelimit.RateLimitedExecutor`."""

    async def execute(self, name: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``func`` when there is room and the circuit is closed; what came of it, wrapped."""
        ...


class RegisteredLimits:
    """A limiter for those actions alone whose id is the name of a registered limit."""

    def __init__(self, limiter: Limiter, registry: LimitRegistry | None = None) -> None:
        self._limiter = limiter
        self._registry = registry or LimitRegistry.get_instance()

    async def execute(self, name: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`Limiter.execute`; what nobody limits is called."""
        if self._registry.find(name) is None:
            return await func(*args, **kwargs)
        return await self._limiter.execute(name, func, *args, **kwargs)


class AttemptFailedError(ActionError):
    """An attempt failed. ``counts`` says whether that tells of the other side's health, for its circuit."""

    #: The executor of actions is the one who tries again.
    retried_by_caller = True

    def __init__(self, action_id: str, status: str, counts: bool) -> None:
        super().__init__(f"An attempt at action '{action_id}' ended as {status}")
        self.action_id = action_id
        self.status = status
        self.counts = counts
        # False is what circuits do not count.
        self.retryable = None if counts else False


async def limited(limiter: Limiter | None, config: ActionConfig, attempt: Attempt) -> ActionResult:
    """The result of ``attempt``, or of the limiter's refusal or fallback. The attempt is made once at most.

    Failures that may pass count as failures for the circuit, a refusal by the other side (4xx) does not.
    """
    if limiter is None:
        return await attempt()
    made: list[ActionResult] = []

    async def once() -> ActionResult:
        if not made:
            made.append(await attempt())
        counts = is_transient(config, made[0])
        if counts or not (made[0].success or made[0].response_code):
            raise AttemptFailedError(config.action_id, made[0].status.value, counts)
        return made[0]

    try:
        outcome = await limiter.execute(config.action_id, once)
    except AttemptFailedError:
        return made[0]
    if made:
        return made[0]
    return _without_attempt(config, outcome)


def _without_attempt(config: ActionConfig, outcome: Any) -> ActionResult:
    if isinstance(outcome, ActionResult):
        return outcome
    error = getattr(outcome, "error", None)
    if getattr(outcome, "used_fallback", False) and getattr(outcome, "success", False):
        return ActionResult(
            config.action_id,
            ActionStatus.COMPLETED,
            response_data=outcome.value,
            audit_metadata={"fallback": True},
        )
    kind = "RateLimitExceeded" if error is None else type(error).__name__
    after = getattr(error, "retry_after", None)
    return ActionResult.failure(
        config.action_id, kind, str(error or "no room for one more call"), retryable=False, retry_after=after
    )
