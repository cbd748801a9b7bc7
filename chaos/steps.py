"""The step types of the runs: what a step does stands in its configuration. Workers import this module."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from llmteam.canvas.catalog import step_type
from llmteam.net import BaseUrlClient
from llmteam.runtime import StepContext, default_manager

#: Variable that tells a worker where the service is that effects are told to.
SERVICE = "CHAOS_SERVICE"
CLIENT = "effects"
#: Annotation of each attempt: the moment at which its handler was called.
BEGAN = "began"

#: Plain handlers in a thread, ``async`` ones on the worker's loop, users' handlers in processes of their own.
THREAD, LOOP, PROCESS = "chaos_thread", "chaos_loop", "chaos_process"

_PROPERTIES: dict[str, Any] = {
    "seconds": {"type": "number"},
    "effect": {"type": "string"},
    "fail": {"type": "integer"},
    "permanent": {"type": "boolean"},
    "hang": {"type": "number"},
    "poison": {"type": "boolean"},
}


class BrokenError(Exception):
    """Trying again would not help."""

    retryable = False


@step_type(THREAD, queue="llmteam.io", properties=_PROPERTIES)
@step_type(PROCESS, properties=_PROPERTIES)
def act(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Do what the configuration says, then hand the document on, with this step on its list."""
    _misbehave(ctx, config)
    document = input_data["input"]
    if "effect" in config:
        headers = {"Idempotency-Key": ctx.idempotency_key}
        place = f"/{document['label']}/{config['effect']}"
        client: Any = ctx.get_client(CLIENT)
        client.send("POST", place, headers=headers, json=document)
    time.sleep(config.get("seconds", 0))
    if ctx.attempt <= config.get("fail", 0):
        raise ValueError(f"attempt {ctx.attempt} fails")
    return _stamped(ctx, document)


@step_type(LOOP, queue="llmteam.io", properties=_PROPERTIES)
async def act_on_loop(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """:func:`act` for what only waits."""
    _misbehave(ctx, config)
    await asyncio.sleep(config.get("seconds", 0))
    return _stamped(ctx, input_data["input"])


def _misbehave(ctx: StepContext, config: dict[str, Any]) -> None:
    # Tells the result of this claim from that of another one, which looks the same.
    ctx.annotate(BEGAN, time.time())
    if config.get("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    if config.get("permanent"):
        raise BrokenError("broken for good")
    if "hang" in config and ctx.attempt == 1:
        # Longer than it may take, and deaf to being told so.
        time.sleep(config["hang"])


def _stamped(ctx: StepContext, document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "via": [*document["via"], f"{ctx.step_id}#{ctx.visit}"]}


def register_service(url: str) -> None:
    """Let steps reach the service, over loopback too."""
    default_manager().register_client(CLIENT, BaseUrlClient(url))


if SERVICE in os.environ:
    register_service(os.environ[SERVICE])
