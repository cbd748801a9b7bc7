"""What limits refuse.

::

    RateLimitError
    ├── RateLimitExceeded      no room before the caller's patience ends
    ├── CircuitOpenError       the resource failed too often and is left alone for now
    ├── QueueFullError         too many callers wait already
    └── InvalidLimitError      a limit's or breaker's settings cannot be used
        └── LimitNotRegisteredError   no limit of this name is known in this process
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class RateLimitError(LLMTeamError):
    """Root of the errors of this package."""

    retryable: bool | None = True


class RateLimitExceeded(RateLimitError):  # noqa: N818
    """No room for one more call. ``retry_after`` is in seconds, None when unknown."""

    def __init__(self, name: str, retry_after: float | None = None) -> None:
        when = "" if retry_after is None else f": there is room in {retry_after:.3g} s"
        super().__init__(f"The rate limit of '{name}' is reached{when}")
        self.name = name
        self.retry_after = retry_after


class CircuitOpenError(RateLimitError):
    """The circuit of a resource is open. ``retry_after`` is in seconds, None when unknown."""

    def __init__(self, name: str, retry_after: float | None = None) -> None:
        when = "" if retry_after is None else f": it is tried again in {retry_after:.3g} s"
        super().__init__(f"The circuit of '{name}' is open after too many failures{when}")
        self.name = name
        self.retry_after = retry_after


class QueueFullError(RateLimitError):
    """``queue_size`` callers wait for the limit already."""

    def __init__(self, name: str, queue_size: int) -> None:
        super().__init__(f"{queue_size} callers wait for '{name}' already: raise its queue_size or call less")
        self.name = name
        self.queue_size = queue_size


class InvalidLimitError(RateLimitError, ValueError):
    """A limit's or breaker's settings cannot be used."""

    retryable = False


class LimitNotRegisteredError(InvalidLimitError):
    """No limit of this name is registered in this process."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No limit '{name}' is registered in this process: call register_limit() in a module that "
            "`llmteam worker --import` names"
        )
        self.name = name
