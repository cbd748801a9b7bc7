"""Whether a failed call is tried again, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from llmteam.ratelimit.circuits.rules import blames_the_request
from llmteam.ratelimit.models import RateLimitConfig

#: Types of errors that are tried again, or a question about one.
RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

#: Errors of the calling code: the same call fails the same way.
MISTAKES = (TypeError, AttributeError, NameError, ImportError, SyntaxError, NotImplementedError, AssertionError)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed when it is tried again.

    Not so for mistakes of the calling code (:data:`MISTAKES`), errors whose ``retryable`` is False and HTTP statuses
    of the 400s but 408, 425 and 429.
    """
    retryable = getattr(error, "retryable", None)
    if isinstance(retryable, bool):
        return retryable
    return not isinstance(error, MISTAKES) and not blames_the_request(error)


def wants_retry(retry_on: RetryOn | None, error: BaseException) -> bool:
    """Whether ``error`` is one that is tried again here; not so when it says ``retried_by_caller``."""
    if getattr(error, "retried_by_caller", False):
        return False
    if retry_on is None:
        return is_transient(error)
    if isinstance(retry_on, type | tuple):
        return isinstance(error, retry_on)
    return bool(retry_on(error))


def delay_before(config: RateLimitConfig, attempt: int, error: BaseException, chance: float) -> float:
    """Seconds before retry number ``attempt``, counted from 0; ``chance`` is in [0, 1).

    Any moment within the configured delay is as likely (full jitter), so that callers who failed together do not come
    back together; but never earlier than the error's ``retry_after`` says.
    """
    asked = getattr(error, "retry_after", None)
    least = float(asked) if isinstance(asked, int | float) else 0.0
    return max(config.get_retry_delay(attempt) * chance, least)


class RetryBudget:
    """Keeps retries a small part of all calls when everything fails: each call earns a part of one retry.

    Args:
        reserve: retries that may be made before any were earned, and the most that are kept.
        share: of a retry that each call earns.
    """

    def __init__(self, reserve: float = 100.0, share: float = 0.2) -> None:
        self._reserve = reserve
        self._share = share
        self._left = reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call is made."""
        with self._lock:
            self._left = min(self._left + self._share, self._reserve)

    def spend(self) -> bool:
        """Whether one more retry may be made; it counts then."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True
