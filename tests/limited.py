"""Limits and the steps under them, for workers of tests; a step here fails while its run's file ``down`` is there."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from llmteam.canvas import step_type
from llmteam.ratelimit import CircuitBreakerConfig, RateLimitConfig, register_limit
from llmteam.runtime.context import StepContext
from tests.failpoints import VARIABLE

#: Calls per second that the limit ``paced`` takes, and at once.
PACE = 20
#: Failures in a row that open the circuit of ``fragile``.
THRESHOLD = 3

register_limit(
    "paced",
    RateLimitConfig(
        requests_per_second=PACE, requests_per_minute=None, requests_per_hour=None, burst_size=PACE, max_concurrent=1000
    ),
)
register_limit(
    "fragile", circuit=CircuitBreakerConfig(failure_threshold=THRESHOLD, open_timeout=timedelta(seconds=0.5))
)


class ServiceDownError(ConnectionError):
    """The service that the step calls does not answer."""


def down(folder: Path, name: str) -> Path:
    """The file that makes the service of this name fail."""
    return folder / f"{name}.down"


@step_type("call_service", properties={"service": {"type": "string"}}, queue="llmteam.io")
def call_service(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Call a service that is up unless a test says otherwise."""
    folder = Path(os.environ[VARIABLE])
    name = config.get("service", "")
    with (folder / f"{name}.calls").open("a") as calls:
        calls.write(f"{ctx.run_id} {ctx.step_id} {ctx.attempt}\n")
    if name and down(folder, name).exists():
        raise ServiceDownError(name)
    return ctx.step_id
