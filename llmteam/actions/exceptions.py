"""What can go wrong around actions.

::

    ActionError
    ├── ActionNotFoundError         nothing is registered under this id
    ├── ActionDeniedError           the tenant may not take this action
    ├── InvalidActionError          an action's configuration cannot work
    ├── ActionDataError             a payload or an answer does not fit
    └── ActionFailedError           an action of a step failed; what its result says

Executors give results and raise none of these; steps raise the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmteam.errors import LLMTeamError


class ActionError(LLMTeamError):
    """Root of the errors of this package."""

    retryable: bool | None = False


class ActionNotFoundError(ActionError):
    """Nothing is registered under this id."""

    def __init__(self, action_id: str, registered: Sequence[str] = ()) -> None:
        there = f"registered: {', '.join(map(repr, registered[:20]))}" if registered else "nothing is registered"
        super().__init__(
            f"Action '{action_id[:200]}' not found: {there}; register it in a module that the worker imports "
            "(llmteam worker --import yourapp.actions)"
        )
        self.action_id = action_id
        self.registered = tuple(registered)


class ActionDeniedError(ActionError):
    """The tenant's lists do not allow the action."""

    def __init__(self, tenant_id: str, action_id: str) -> None:
        super().__init__(
            f"Tenant '{tenant_id}' may not take action '{action_id[:200]}': see its allowed_actions and blocked_actions"
        )
        self.tenant_id = tenant_id
        self.action_id = action_id


class InvalidActionError(ActionError, ValueError):
    """An action's configuration cannot work."""

    def __init__(self, action_id: str, reason: str) -> None:
        super().__init__(f"Action '{action_id[:200]}': {reason}")
        self.action_id = action_id
        self.reason = reason


class ActionDataError(ActionError):
    """A payload or an answer does not fit what the action needs. Values are never shown."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ActionFailedError(ActionError):
    """An action of a step failed. ``error_type`` is that of its result; ``retry_after`` is in seconds."""

    def __init__(
        self,
        action_id: str,
        error_type: str,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after: float | None = None,
        status: int = 0,
    ) -> None:
        super().__init__(f"Action '{action_id}' failed with {error_type}: {message}")
        self.action_id = action_id
        self.error_type = error_type
        self.retryable = retryable
        self.retry_after = retry_after
        self.status = status
