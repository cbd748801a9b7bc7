"""The step types that the bench runs; workers import this module."""

from __future__ import annotations

import time
from typing import Any

from llmteam.canvas.catalog import step_type
from llmteam.runtime.context import StepContext

#: One worker with the ``threads`` pool serves it.
QUEUE = "llmteam.io"


@step_type("bench_noop", queue=QUEUE)
def noop(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Nothing, like the task of :mod:`bench.raw`."""
    return 1


@step_type("bench_wait", queue=QUEUE, properties={"seconds": {"type": "number"}})
def wait(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """What a call to a model looks like from here."""
    time.sleep(config["seconds"])
    return 1
