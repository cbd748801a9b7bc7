"""The step types that the bench runs; workers import this module."""

from __future__ import annotations

import gc
import time
from typing import Any

from llmteam.canvas.catalog import step_type
from llmteam.db import Database
from llmteam.runtime import default_manager
from llmteam.runtime.context import StepContext

#: One worker with the ``threads`` pool serves it.
QUEUE = "llmteam.io"
#: The model that answers at once, always the same.
MODEL = "bench"


@step_type("bench_noop", queue=QUEUE)
def noop(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Nothing, like the task of :mod:`bench.raw`."""
    return 1


@step_type("bench_wait", queue=QUEUE, properties={"seconds": {"type": "number"}})
def wait(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """What a call to a model looks like from here."""
    time.sleep(config["seconds"])
    return 1


@step_type("bench_trips", queue=QUEUE)
def trips(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Round trips of this process to Postgres so far."""
    return sum(found.round_trips for found in gc.get_objects() if isinstance(found, Database))


class Model:
    """A model whose answer is a page of text."""

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        return "The order has three lines, and none of them is unusual in article, amount or price. " * 20


default_manager().register_llm(MODEL, Model())
