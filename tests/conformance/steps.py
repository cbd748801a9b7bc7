"""Step types of the conformance suite: what a step does stands in its configuration. Workers import this module."""

from __future__ import annotations

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

from llmteam.canvas import Ports, StepCatalog, StepCategory, StepTypeMetadata, step_type
from llmteam.runtime.context import StepContext
from tests import acting

#: Seconds between two looks at a gate.
_LOOK = 0.005

NOT_JSON: dict[str, Any] = {
    "object": object(),
    "set": {"one"},
    "bytes": b"one",
    "nan": math.nan,
    "infinity": math.inf,
    "key": {1: "one"},
    "nul": "a\x00b",
    "surrogate": "a\ud800",
    "deep": [],
}
NOT_JSON["deep"].append(NOT_JSON["deep"])


class PermanentError(Exception):
    """Trying again would not help."""

    retryable = False


class MuteError(Exception):
    """Cannot even say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class BusyError(Exception):
    """Comes with the least time to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__("busy")
        self.retry_after = seconds


async def work(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Touch ``mark``, wait for ``gate``, then fail or answer as :func:`answer` says."""
    for path in _arrive(ctx, config):
        while not path.exists():  # noqa: ASYNC110  # another process opens the gate
            await asyncio.sleep(_LOOK)
    return answer(ctx, config, input_data)


def plain(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """:func:`work` in a thread; gives up its gate when it is told to."""
    for path in _arrive(ctx, config):
        while not path.exists() and not ctx.cancelled.is_set():
            time.sleep(_LOOK)
    if ctx.cancelled.is_set() and "told" in config:
        Path(config["told"]).touch()
    return answer(ctx, config, input_data)


def count(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """The document with one more in ``key``, and nothing in the keys to ``reset``."""
    document = input_data.get("input", input_data) if isinstance(input_data, dict) else None
    counted = dict(document) if isinstance(document, dict) else {}
    key = config.get("key", "n")
    counted[key] = counted.get(key, 0) + 1
    return {name: value for name, value in counted.items() if name not in config.get("reset", ())}


def register() -> StepCatalog:
    """Make the types known to the process's catalog, which other tests may have replaced; the catalog."""
    acting.settle()
    catalog = StepCatalog.get_instance()
    for type_id, handler in (("work", work), ("plain", plain), ("count", count)):
        step_type(type_id, catalog=catalog)(handler)
    catalog.register(
        StepTypeMetadata("ghost", "1.0", "Ghost", "A type that no process has a handler for.", StepCategory.UTILITY)
    )
    return catalog


register()


def _arrive(ctx: StepContext, config: dict[str, Any]) -> list[Path]:
    if "mark" in config:
        Path(config["mark"]).touch()
    gated = "gate" in config and ctx.visit == config.get("gate_at", ctx.visit)
    return [Path(config["gate"])] if gated else []


def answer(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """What ``config`` says; by default how the step was reached: ``c(b(a))`` for the last of three in a row."""
    _fail(ctx, config)
    if "annotate" in config:
        ctx.annotate("usage", config["annotate"])
    if "not_json" in config:
        return {"value": NOT_JSON[config["not_json"]]}
    if "size" in config:
        return "x" * config["size"]
    if "ports" in config:
        return Ports(config["ports"])
    if config.get("show") == "input":
        return input_data["input"]
    if config.get("show") == "key":
        return ctx.idempotency_key
    if config.get("show") == "tenant":
        return ctx.tenant_id
    if config.get("show") == "state":
        return {"attempts": ctx.get_state("attempts"), "attempt": ctx.attempt}
    return config["answer"] if "answer" in config else way(ctx, input_data)


def _fail(ctx: StepContext, config: dict[str, Any]) -> None:
    if "state" in config:
        ctx.set_state("attempts", [*ctx.get_state("attempts", []), ctx.attempt])
    if ctx.attempt > config.get("fail", 0):
        return
    message = config.get("message", f"attempt {ctx.attempt} failed")
    match config.get("how"):
        case "permanent":
            raise PermanentError(message)
        case "exit":
            raise SystemExit(3)
        case "memory":
            raise MemoryError
        case "mute":
            raise MuteError
        case "timeout":
            raise TimeoutError(message)
        case "busy":
            raise BusyError(float(config["after"]))
        case "text":
            raise ValueError("nul \x00 and half a pair \ud800 and postgresql://me:secret@db/x")
        case _:
            raise ValueError(message)


def way(ctx: StepContext, input_data: Any) -> str:
    """The step and, in parentheses, what reached it."""
    name = ctx.step_id if ctx.visit == 1 else f"{ctx.step_id}#{ctx.visit}"
    if input_data is None:
        return name
    if isinstance(input_data, dict) and set(input_data) <= set(ctx.inputs):
        values = [_shown(value) for value in input_data.values()]
        if len(input_data) > 1:
            values = [f"{port}={_shown(input_data[port])}" for port in sorted(input_data)]
        return f"{name}({', '.join(values)})"
    return f"{name}({_shown(input_data)})"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
