"""Which of several pipelines takes an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmteam.ids import as_utc
from llmteam.roles.models import GroupDecisionType, GroupOrchestrationDecision, PipelineStatus


class GroupOrchestrationStrategy:
    """Base of the strategies of a :class:`GroupOrchestrator`."""

    async def decide(self, pipelines: dict[str, PipelineStatus], input_data: Any) -> GroupOrchestrationDecision:
        """Who takes ``input_data``."""
        raise NotImplementedError(f"{type(self).__name__} decides nothing: give it a method decide(pipelines, input)")


class LoadBalancingStrategy(GroupOrchestrationStrategy):
    """The pipeline that is free and was least recently used, else the one that has got least far."""

    async def decide(self, pipelines: dict[str, PipelineStatus], input_data: Any) -> GroupOrchestrationDecision:
        if not pipelines:
            return _nobody()
        free = [status for status in pipelines.values() if status.status != "running"]
        if free:
            chosen = min(free, key=lambda status: (status.running, as_utc(status.last_update)))
            return _route([chosen.pipeline_id], "load_balancing:idle")
        chosen = min(pipelines.values(), key=lambda one: (one.progress, one.running, as_utc(one.last_update)))
        return _route([chosen.pipeline_id], "load_balancing:least_progress")


class ContentBasedRoutingStrategy(GroupOrchestrationStrategy):
    """The pipelines of the first keyword that the input's text contains, in any case, else the first pipeline."""

    def __init__(self, routing_rules: Mapping[str, list[str]]) -> None:
        self.routing_rules = dict(routing_rules)

    async def decide(self, pipelines: dict[str, PipelineStatus], input_data: Any) -> GroupOrchestrationDecision:
        if not pipelines:
            return _nobody()
        text = str(input_data).casefold()
        for keyword, wanted in self.routing_rules.items():
            known = [pipeline_id for pipeline_id in wanted if pipeline_id in pipelines]
            if known and keyword.casefold() in text:
                return _route(known, f"keyword_match:{keyword}")
        return _route([next(iter(pipelines))], "default_routing")


class ParallelFanOutStrategy(GroupOrchestrationStrategy):
    """All pipelines at once."""

    def __init__(self, aggregation: str = "merge") -> None:
        self.aggregation = aggregation

    async def decide(self, pipelines: dict[str, PipelineStatus], input_data: Any) -> GroupOrchestrationDecision:
        kind = GroupDecisionType.PARALLEL_PIPELINES
        return GroupOrchestrationDecision(kind, list(pipelines), self.aggregation, "fan_out")


def _route(targets: list[str], reason: str) -> GroupOrchestrationDecision:
    return GroupOrchestrationDecision(GroupDecisionType.ROUTE_TO_PIPELINE, targets, reason=reason)


def _nobody() -> GroupOrchestrationDecision:
    return GroupOrchestrationDecision(GroupDecisionType.ESCALATE, [], reason="no_pipelines_available")
