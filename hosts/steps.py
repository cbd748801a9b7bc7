"""The step types of these runs: those of :mod:`chaos.steps`, and two that write down who called them.

Workers import this module.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import chaos.steps
from llmteam.canvas.catalog import step_type
from llmteam.ratelimit import RateLimitConfig, register_limit
from llmteam.runtime import StepContext

#: Variables that tell a worker its host, and where calls are written down.
HOST, JOURNAL = "HOSTS_NAME", "HOSTS_JOURNAL"
#: Annotation of each attempt: the host of the worker that called the handler.
PLACE = "host"
#: In a thread, and in a process of its own.
CALLED, CALLED_APART = "hosts_called", "hosts_called_apart"

LIMIT = "scarce"
#: Calls a second that the limit takes, and at once.
PACE = 5
_PROPERTIES: dict[str, Any] = {"seconds": {"type": "number"}, "effect": {"type": "string"}}

register_limit(
    LIMIT,
    RateLimitConfig(
        requests_per_second=PACE, requests_per_minute=None, requests_per_hour=None, burst_size=PACE, max_concurrent=1000
    ),
)


@dataclass(frozen=True)
class Note:
    """A handler was called, or came to its end, on a host; ``at`` is seconds since the epoch."""

    host: str
    tenant_id: str
    run_id: str
    step_id: str
    ended: bool
    at: float


@step_type(CALLED, queue="llmteam.io", properties=_PROPERTIES)
@step_type(CALLED_APART, properties=_PROPERTIES)
def call(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """:func:`chaos.steps.act`, written down."""
    ctx.annotate(PLACE, os.environ.get(HOST, ""))
    _note(ctx, ended=False)
    answer = chaos.steps.act(ctx, config, input_data)
    _note(ctx, ended=True)
    return answer


def _note(ctx: StepContext, *, ended: bool) -> None:
    path = os.environ.get(JOURNAL)
    if path is None:
        return
    note = Note(os.environ[HOST], ctx.tenant_id, ctx.run_id, ctx.step_id, ended, time.time())
    # One write at the end of the file, which the kernel keeps whole.
    with Path(path).open("ab", buffering=0) as journal:
        journal.write(json.dumps(asdict(note)).encode() + b"\n")


def notes(path: Path) -> list[Note]:
    """What was written down so far, in that order."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [Note(**json.loads(line)) for line in lines]
