"""How an executor works, and what it gives back. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["ExecutionMode", "ExecutorConfig", "TaskResult"]


class ExecutionMode(StrEnum):
    """How many agents run at once.

    SEQUENTIAL: one, in the given order. PARALLEL: up to the limit. ADAPTIVE: up to the limit, and fewer while too much
    waits or too much fails.
    """

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"
    ADAPTIVE = "adaptive"


@dataclass
class ExecutorConfig:
    """Limits of an executor. Times are in seconds.

    Args:
        max_concurrent: agents that run at once, over all calls.
        queue_size: agents that may wait for that; a call with more of them waits for room.
        task_timeout: what each attempt of an agent gets.
        total_timeout: what a whole call gets.
        max_retries: further attempts after a failure that may pass by itself.
        retry_delay: pause before the first of them; it doubles with each.
        backpressure_threshold: share of the queue from which on there is back-pressure.

    Raises ``ValueError`` for a value that makes no sense.
    """

    mode: ExecutionMode = ExecutionMode.ADAPTIVE
    max_concurrent: int = 10
    queue_size: int = 100
    task_timeout: float = 300.0
    total_timeout: float = 3600.0
    max_retries: int = 3
    retry_delay: float = 1.0
    enable_backpressure: bool = True
    backpressure_threshold: float = 0.8

    def __post_init__(self) -> None:
        self.mode = ExecutionMode(self.mode)
        rules = {
            "max_concurrent": (self.max_concurrent >= 1, "at least 1"),
            "queue_size": (self.queue_size >= 1, "at least 1"),
            "task_timeout": (self.task_timeout > 0, "more than 0 seconds"),
            "total_timeout": (self.total_timeout > 0, "more than 0 seconds"),
            "max_retries": (self.max_retries >= 0, "0 or more"),
            "retry_delay": (self.retry_delay >= 0, "0 seconds or more"),
            "backpressure_threshold": (0 < self.backpressure_threshold <= 1, "more than 0 and at most 1"),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}: {wanted} is needed")


@dataclass
class TaskResult:
    """What became of one agent. ``error`` is the text of the last failure and ``error_type`` its kind.

    ``retries`` counts the attempts after the first; ``duration_ms`` covers all of them and the pauses between.
    """

    task_id: str
    agent_name: str
    success: bool
    result: Any = None
    error: str | None = None
    duration_ms: int = 0
    retries: int = 0
    error_type: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary of its fields."""
        return asdict(self)
