"""Agents on the fleet: registered by what workers import, run as steps, awaited from any process."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from llmteam.canvas.agent_segments import AgentRef, agents_segment, task_results, type_of
from llmteam.canvas.catalog import StepCatalog, step_type
from llmteam.canvas.client import SegmentClient
from llmteam.canvas.exceptions import LocalAgentError
from llmteam.canvas.ports import StepHandler
from llmteam.canvas.results import RunConfig
from llmteam.execution.attempts import is_transient
from llmteam.execution.config import ExecutorConfig, TaskResult
from llmteam.runtime.context import StepContext

__all__ = ["AgentRef", "FleetExecutor", "register_agent"]

_Agent = TypeVar("_Agent", bound=type[Any])

_STATE = {"state": {"type": "object", "description": "What the agent is made with, by argument."}}


def register_agent(
    agent_id: str, *, queue: str | None = None, catalog: StepCatalog | None = None
) -> Callable[[_Agent], _Agent]:
    """Register the decorated class as an agent that workers can make: ``cls(**state)``, with a method ``process``.

    Importing its module on a worker (``--import``) makes it known there. Each attempt gets an agent and an input of its
    own. Raises as :func:`step_type`, and ``TypeError`` for a class without ``process``.
    """

    def register(cls: _Agent) -> _Agent:
        if not callable(getattr(cls, "process", None)):
            raise TypeError(f"{cls.__name__} has no method process(input_data)")
        decorate = step_type(type_of(agent_id), queue=queue, properties=_STATE, catalog=catalog)
        decorate(_async_step(cls) if inspect.iscoroutinefunction(cls.process) else _plain_step(cls))
        return cls

    return register


def _plain_step(cls: type[Any]) -> StepHandler:
    def process(ctx: StepContext, config: dict[str, Any], data: Any) -> dict[str, Any]:
        try:
            return _answer(ctx, cls(**config.get("state", {})).process(copy.deepcopy(data["input"])))
        except Exception as exc:  # noqa: BLE001  # whatever an agent raises is its outcome
            return _failure(ctx, exc)

    return _named(process, cls)


def _async_step(cls: type[Any]) -> StepHandler:
    async def process(ctx: StepContext, config: dict[str, Any], data: Any) -> dict[str, Any]:
        try:
            return _answer(ctx, await cls(**config.get("state", {})).process(copy.deepcopy(data["input"])))
        except Exception as exc:  # noqa: BLE001  # whatever an agent raises is its outcome
            return _failure(ctx, exc)

    return _named(process, cls)


def _named(process: Any, cls: type[Any]) -> StepHandler:
    """As if it stood where the class stands: a module that is imported again registers the same."""
    process.__module__, process.__qualname__ = cls.__module__, f"{cls.__qualname__}.process"
    handler: StepHandler = process
    return handler


def _answer(ctx: StepContext, value: Any) -> dict[str, Any]:
    return {"success": True, "result": value, "retries": ctx.attempt - 1}


def _failure(ctx: StepContext, exc: Exception) -> dict[str, Any]:
    """The outcome of an agent that failed for good; what may pass is raised, so that the engine tries again."""
    if is_transient(exc):
        raise exc
    return {"success": False, "error": str(exc), "error_type": type(exc).__name__, "retries": ctx.attempt - 1}


class FleetExecutor:
    """As :class:`~llmteam.execution.PipelineExecutor`, on workers: what is done stays done, whoever dies.

    ``client`` starts the runs; ``config`` as there, without what is about the caller's own process.
    """

    def __init__(self, client: SegmentClient, config: ExecutorConfig | None = None) -> None:
        self._client = client
        self.config = config or ExecutorConfig()

    def start(self, agents: Sequence[AgentRef], input_data: Any, *, run_id: str | None = None) -> str:
        """Start a run of these agents and return its id; a second start with this id gives the first one's.

        Raises :class:`LocalAgentError` for a live object, :class:`SegmentValidationError` for an agent that is not
        registered here, ``ValueError`` without agents.
        """
        for agent in agents:
            if not isinstance(agent, AgentRef):
                raise LocalAgentError(type(agent).__name__)
        config = RunConfig(
            max_retries=self.config.max_retries,
            retry_delay=self.config.retry_delay,
            timeout_seconds=self.config.total_timeout,
        )
        return self._client.start(agents_segment(agents, self.config), input_data, config=config, run_id=run_id)

    def results(self, run_id: str, agents: Sequence[AgentRef], timeout: float | None = None) -> list[TaskResult]:
        """Wait, at most ``timeout`` seconds, and return what became of each agent; of one that goes on: not run.

        From any process that knows the agents. Raises :class:`RunNotFoundError`.
        """
        status = self._client.result(run_id, timeout).status
        return task_results(agents, run_id, status, self._client.steps(run_id))

    async def execute_parallel(self, agents: Sequence[AgentRef], input_data: Any) -> list[TaskResult]:
        """:meth:`start` and :meth:`results`. Raises as they do."""
        if not agents:
            return []
        run_id = await asyncio.to_thread(self.start, agents, input_data)
        return await asyncio.to_thread(self.results, run_id, agents)
