"""Step types to which things happen, for workers of tests; each writes down that it began.

``traced`` is for a pool of processes, ``traced_io`` for one of threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import current_task

from llmteam.canvas import StepCatalog, step_type
from llmteam.runtime.context import StepContext
from tests.conformance.steps import way
from tests.failpoints import VARIABLE, reach

#: Steps that make the shape of a run; here they go where processes can be killed one by one.
FLOW = ("condition", "parallel_split", "parallel_join")
_LOOK = 0.02


@dataclass(frozen=True)
class Began:
    """One call of a handler."""

    step_id: str
    attempt: int
    key: str
    pid: int
    queue: str


def traced(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Begin, wait for the run's ``gate``, ``die`` the first ``times``, ``fail`` so often, or say how it was reached.

    With ``checkpoint`` it asks for a snapshot of the run.
    """
    run_id = ctx.run_id
    before = sum(one.step_id == ctx.step_id for one in began(_folder(), run_id))
    queue = current_task.request.delivery_info["routing_key"]
    _write(run_id, f"{ctx.step_id} {ctx.attempt} {ctx.idempotency_key} {os.getpid()} {queue}\n")
    gates = [gate_of(_folder(), run_id, number) for number in (0, before + 1)]
    while config.get("gate") and not any(gate.exists() for gate in gates):
        time.sleep(_LOOK)
    if before < config.get("times", 0):
        _die(config["die"])
    reach("handler", run_id, ctx.step_id)
    if ctx.attempt <= config.get("fail", 0):
        raise ValueError(f"attempt {ctx.attempt} failed")
    if config.get("checkpoint"):
        ctx.checkpoint()
    return way(ctx, input_data)


def _die(how: str) -> None:
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "segfault":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            ctypes.string_at(0)
        case "memory":
            raise MemoryError


def began(folder: Path, run_id: str) -> list[Began]:
    """Every call of a run's handlers so far, in order."""
    path = folder / f"{run_id}.began"
    lines = path.read_text().splitlines() if path.exists() else []
    parts = [line.split() for line in lines]
    return [Began(step_id, int(attempt), key, int(pid), queue) for step_id, attempt, key, pid, queue in parts]


def gate_of(folder: Path, run_id: str, call: int = 0) -> Path:
    """The file that a call of the run's gated steps waits for, counted from 1; 0 is for all of them."""
    return folder / f"{run_id}.gate{call or ''}"


def _write(run_id: str, line: str) -> None:
    with (_folder() / f"{run_id}.began").open("a") as ledger:
        ledger.write(line)


def _folder() -> Path:
    return Path(os.environ[VARIABLE])


def register(catalog: StepCatalog | None = None) -> StepCatalog:
    """Make the types known to a catalog, by default that of the process; the catalog."""
    catalog = catalog or StepCatalog.get_instance()
    step_type("traced", catalog=catalog)(traced)
    step_type("traced_io", queue="llmteam.io", catalog=catalog)(traced)
    return catalog


def crowded() -> StepCatalog:
    """A catalog for starting runs in which every step goes to ``llmteam.default``."""
    catalog = register(StepCatalog())
    for type_id in FLOW:
        metadata = catalog.get_type(type_id)
        assert metadata is not None
        catalog.register(metadata, queue="llmteam.default")
    return catalog


register()
