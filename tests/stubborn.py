"""Step types that hang, hold on or say which process they run in, each for a pool of threads and one of processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from llmteam.canvas import StepCatalog, step_type
from llmteam.runtime.context import StepContext


def hang(ctx: StepContext, config: dict[str, Any], input_data: Any) -> None:
    """Never return, whatever is said."""
    while True:
        time.sleep(60)


def hang_once(ctx: StepContext, config: dict[str, Any], input_data: Any) -> int:
    """Never return from the first attempt."""
    if ctx.attempt == 1:
        hang(ctx, config, input_data)
    return os.getpid()


def obey(ctx: StepContext, config: dict[str, Any], input_data: Any) -> None:
    """Return a moment after being told that the time is over."""
    ctx.cancelled.wait()
    time.sleep(0.5)


def hold(ctx: StepContext, config: dict[str, Any], input_data: Any) -> int:
    """Touch ``began`` and go on until ``until`` is there."""
    Path(config["began"]).touch()
    while not Path(config["until"]).exists():
        time.sleep(0.02)
    return os.getpid()


def pid(ctx: StepContext, config: dict[str, Any], input_data: Any) -> int:
    """The process that this runs in."""
    return os.getpid()


def register() -> StepCatalog:
    """Make the types known to the process's catalog: ``hang_io``, ``hang_default`` and so on; the catalog."""
    catalog = StepCatalog.get_instance()
    for queue in ("io", "default"):
        for handler in (hang, hang_once, obey, hold, pid):
            step_type(f"{handler.__name__}_{queue}", queue=f"llmteam.{queue}", catalog=catalog)(handler)
    return catalog


register()
