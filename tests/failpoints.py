"""Named points in the engine at which a test has something happen: workers import this module, products do not.

A test arms a point for one step of one run with a file. The first process that passes the point takes the file away
and does what stands in it, so that it happens once. Whatever is not armed costs a look for a file that is not there.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from celery.signals import task_received

from llmteam.canvas.postgres import PostgresRunStore, holds
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.dispatch import RUN_STEP, CeleryDispatcher
from llmteam.errors import InfrastructureError

#: Names the folder of the files.
VARIABLE = "LLMTEAM_TEST_POINTS"

#: What can happen: the process is killed, the call answers with an error, another process (``pid``) gets a ``signal``.
KILL, ERROR, SIGNAL = "kill", "error", "signal"


class UnknownOutcomeError(InfrastructureError):
    """What a store says when the connection broke before the answer came."""

    def __init__(self, point: str) -> None:
        super().__init__(f"the connection was lost at {point}")


def arm(folder: Path, point: str, run_id: str, step_id: str = "", action: str = KILL, **more: Any) -> None:
    """Have ``action`` happen when ``step_id`` of the run passes ``point`` next."""
    path = folder / _name(point, run_id, step_id)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"action": action, **more}))
    draft.rename(path)


def passed(folder: Path, point: str, run_id: str, step_id: str = "") -> bool:
    """Whether it has happened."""
    return (folder / f"{_name(point, run_id, step_id)}.passed").exists()


def _name(point: str, run_id: str, step_id: str) -> str:
    return f"{run_id}@{step_id}@{point}"


def reach(point: str, run_id: str, step_id: str = "") -> None:
    """Called where the point is."""
    path = Path(os.environ[VARIABLE]) / _name(point, run_id, step_id)
    try:
        path.rename(f"{path}.passed")
    except FileNotFoundError:
        return
    order = json.loads(Path(f"{path}.passed").read_text())
    if order["action"] == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if order["action"] == SIGNAL:
        os.kill(order["pid"], order["signal"])
    if order["action"] == ERROR:
        raise UnknownOutcomeError(point)


def _around(owner: type | ModuleType, method: str, name: str, key_of: Callable[..., tuple[str, str]]) -> None:
    """Put ``name.before`` and ``name.after`` around a method; ``key_of`` its arguments is the run and the step."""
    inner = getattr(owner, method)

    @functools.wraps(inner)
    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        key = key_of(*args, **kwargs)
        reach(f"{name}.before", *key)
        answer = inner(self, *args, **kwargs)
        if getattr(answer, "applied", True) is False:
            reach(f"{name}.refused", *key)
        reach(f"{name}.after", *key)
        return answer

    setattr(owner, method, outer)


def _after_each(method: str, name: str) -> None:
    """Put ``name`` behind a look of the sweeps, for each step that it found."""
    inner = getattr(PostgresSweeps, method)

    @functools.wraps(inner)
    def outer(self: Any, *args: Any) -> Any:
        found = inner(self, *args)
        for one in found:
            reach(name, one.run_id, one.step_id if method == "take_due" else one.key[0])
        return found

    setattr(PostgresSweeps, method, outer)


def _received(request: Any, **_: Any) -> None:
    if request.name == RUN_STEP and len(request.args or ()) >= 3:
        reach("received", request.args[1], request.args[2])


def install() -> None:
    """Wrap what the engine calls, in this process and those that it forks."""
    _around(PostgresRunStore, "create", "create", lambda run, *_: (run.run_id, ""))
    _around(PostgresRunStore, "claim", "claim", lambda work, claimed, *_: (work.header.run_id, claimed.step_id))
    _around(
        PostgresRunStore,
        "apply",
        "apply",
        lambda header, *_, finished=None, **__: (header.run_id, finished[0] if finished else ""),
    )
    _around(PostgresRunStore, "take_hold", "hold", lambda header, *_, **__: (header.run_id, ""))
    _around(holds, "capture", "capture", lambda _, header, *__: (header.run_id, ""))
    _around(CeleryDispatcher, "send", "send", lambda hints: (hints[0].run_id, hints[0].step_id))
    _around(CeleryDispatcher, "send_chord", "chord", lambda chord: (chord.body.run_id, chord.body.step_id))
    _around(CeleryDispatcher, "_publish", "publish", lambda _, hint, *__, **___: (hint.run_id, hint.step_id))
    _after_each("take_due", "due.after")
    _after_each("take_expired", "expired.after")
    task_received.connect(_received, weak=False, dispatch_uid="failpoints")


if VARIABLE in os.environ:
    install()
