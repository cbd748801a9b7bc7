"""The orchestrator of several pipelines: who takes an input, and what becomes of several results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from llmteam import codec
from llmteam.errors import NotJSONError
from llmteam.ids import Clock, utc_now
from llmteam.roles.exceptions import InvalidOrchestrationError
from llmteam.roles.group_strategies import GroupOrchestrationStrategy, LoadBalancingStrategy
from llmteam.roles.models import GroupDecisionType, PipelineStatus

#: How several results become one.
AGGREGATIONS = ("merge", "vote", "first", "all")

NO_PIPELINE = "no_pipeline_available"


class Pipeline(Protocol):
    """What a group routes to; a :class:`PipelineOrchestrator` is one. ``get_process_metrics()`` may be there too."""

    pipeline_id: str

    async def orchestrate(self, run_id: str, input_data: Mapping[str, Any], /) -> dict[str, Any]: ...


class GroupOrchestrator:
    """Lets registered pipelines take inputs as ``strategy`` decides, by default the least used one.

    It runs in the caller's process and knows the runs that it started itself.
    """

    def __init__(
        self, group_id: str, strategy: GroupOrchestrationStrategy | None = None, *, clock: Clock = utc_now
    ) -> None:
        self.group_id = group_id
        self.strategy = strategy or LoadBalancingStrategy()
        self._clock = clock
        self._pipelines: dict[str, Any] = {}
        self._statuses: dict[str, PipelineStatus] = {}

    def register_pipeline(self, pipeline: Pipeline) -> None:
        """Add a pipeline, idle. Raises :class:`InvalidOrchestrationError` when it has no ``pipeline_id``."""
        pipeline_id = getattr(pipeline, "pipeline_id", None)
        if not isinstance(pipeline_id, str) or not pipeline_id:
            raise InvalidOrchestrationError("A pipeline needs a pipeline_id, a text by which the group knows it")
        self._pipelines[pipeline_id] = pipeline
        self._statuses[pipeline_id] = PipelineStatus(pipeline_id, "idle", 0.0, "", 0, self._clock())

    def unregister_pipeline(self, pipeline_id: str) -> None:
        """Forget a pipeline; an unknown one is ignored."""
        self._pipelines.pop(pipeline_id, None)
        self._statuses.pop(pipeline_id, None)

    async def orchestrate(self, run_id: str, input_data: Mapping[str, Any]) -> dict[str, Any]:
        """The result of the pipeline that takes the input, or of several as one.

        A pipeline that fails gives ``{"error": text}``, as does having none. Of several, those that fail are under
        the key ``errors`` where results are merged or listed. Other decisions than these two give ``{}``. Raises what
        the strategy raises, and :class:`InvalidOrchestrationError` for an aggregation that there is none.
        """
        decision = await self.strategy.decide(self.get_pipeline_statuses(), input_data)
        kind = decision.decision_type
        if kind not in (GroupDecisionType.ROUTE_TO_PIPELINE, GroupDecisionType.PARALLEL_PIPELINES):
            return {}
        targets = [name for name in dict.fromkeys(decision.target_pipelines) if name in self._pipelines]
        if not targets:
            return {"error": NO_PIPELINE}
        if kind == GroupDecisionType.ROUTE_TO_PIPELINE:
            result = await self._run(targets[0], run_id, input_data)
            return {"error": _told(result)} if isinstance(result, Exception) else result
        _check_aggregation(decision.aggregation_strategy)
        results = await asyncio.gather(*(self._run(name, f"{run_id}_{name}", input_data) for name in targets))
        good = [result for result in results if not isinstance(result, Exception)]
        whole = self._aggregate_results(good, decision.aggregation_strategy)
        errors = {name: _told(one) for name, one in zip(targets, results, strict=True) if isinstance(one, Exception)}
        return {**whole, "errors": errors} if errors and decision.aggregation_strategy in ("merge", "all") else whole

    def get_pipeline_statuses(self) -> dict[str, PipelineStatus]:
        """How each pipeline is doing, as copies."""
        return {pipeline_id: replace(status) for pipeline_id, status in self._statuses.items()}

    def get_group_metrics(self) -> dict[str, Any]:
        """``total_pipelines``; of mined runs also ``avg_completion_rate``, ``avg_error_rate``, ``bottlenecks``."""
        told: dict[str, Any] = {"total_pipelines": len(self._pipelines)}
        mined = [one.get_process_metrics() for one in self._pipelines.values() if hasattr(one, "get_process_metrics")]
        found = [metrics for metrics in mined if metrics is not None]
        if found:
            told["avg_completion_rate"] = sum(metrics.completion_rate for metrics in found) / len(found)
            told["avg_error_rate"] = sum(metrics.error_rate for metrics in found) / len(found)
            told["bottlenecks"] = sorted({name for metrics in found for name in metrics.bottleneck_activities})
        return told

    async def _run(self, pipeline_id: str, run_id: str, input_data: Mapping[str, Any]) -> dict[str, Any] | Exception:
        status = self._statuses[pipeline_id]
        status.running += 1
        status.status, status.progress, status.last_update = "running", 0.0, self._clock()
        ended = "failed"
        try:
            result: dict[str, Any] = await self._pipelines[pipeline_id].orchestrate(run_id, dict(input_data))
            ended = "completed"
            return result
        except Exception as exc:  # noqa: BLE001  # a pipeline of the user may raise anything
            status.error_count += 1
            return exc
        finally:
            status.running -= 1
            status.last_update = self._clock()
            if not status.running:
                status.status, status.progress = ended, 1.0 if ended == "completed" else status.progress

    def _aggregate_results(self, results: list[dict[str, Any]], strategy: str) -> dict[str, Any]:
        _check_aggregation(strategy)
        if strategy == "all":
            return {"results": list(results)}
        if strategy == "merge":
            return {key: value for result in results for key, value in result.items()}
        if not results:
            return {}
        return results[0] if strategy == "first" else _most_frequent(results)


def _check_aggregation(strategy: str) -> None:
    if strategy not in AGGREGATIONS:
        known = ", ".join(AGGREGATIONS)
        raise InvalidOrchestrationError(f"Aggregation '{str(strategy)[:60]}' does not exist: use one of {known}")


def _most_frequent(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The result that most pipelines gave; of several the one that stands first."""
    counted: list[tuple[Any, dict[str, Any], int]] = []
    for result in results:
        form = _comparable(result)
        for place, (known, first, count) in enumerate(counted):
            if known == form:
                counted[place] = (known, first, count + 1)
                break
        else:
            counted.append((form, result, 1))
    return max(counted, key=lambda one: one[2])[1]


def _comparable(result: dict[str, Any]) -> Any:
    """JSON text where it is JSON, so that 1 and true are two answers."""
    try:
        return codec.canonical(result)
    except NotJSONError:
        return result


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
