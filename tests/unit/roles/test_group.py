from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from llmteam.roles import (
    ContentBasedRoutingStrategy,
    GroupDecisionType,
    GroupOrchestrationDecision,
    GroupOrchestrationStrategy,
    GroupOrchestrator,
    InvalidOrchestrationError,
    LoadBalancingStrategy,
    ParallelFanOutStrategy,
    PipelineOrchestrator,
    PipelineStatus,
)
from tests.unit.roles.agents import Ticking, Writes

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def status(pipeline_id: str, state: str = "idle", progress: float = 0.0, age: int = 0, running: int = 0) -> Any:
    return PipelineStatus(pipeline_id, state, progress, "", 0, NOW - timedelta(seconds=age), running)


def decided(
    strategy: GroupOrchestrationStrategy, *pipelines: PipelineStatus, given: Any = None
) -> GroupOrchestrationDecision:
    return asyncio.run(strategy.decide({one.pipeline_id: one for one in pipelines}, given))


class Answers:
    """A pipeline with one answer, or one error; with a gate it waits for it."""

    def __init__(self, pipeline_id: str, answer: Any, gate: asyncio.Event | None = None) -> None:
        self.pipeline_id = pipeline_id
        self.answer = answer
        self.gate = gate
        self.runs: list[str] = []

    async def orchestrate(self, run_id: str, input_data: Mapping[str, Any]) -> dict[str, Any]:
        self.runs.append(run_id)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return dict(self.answer)


def group(strategy: GroupOrchestrationStrategy | None, *pipelines: Any) -> GroupOrchestrator:
    made = GroupOrchestrator("g", strategy, clock=Ticking())
    for pipeline in pipelines:
        made.register_pipeline(pipeline)
    return made


def ran(made: GroupOrchestrator, **given: Any) -> dict[str, Any]:
    return asyncio.run(made.orchestrate("r", given))


@pytest.mark.parametrize(
    ("pipelines", "chosen", "reason"),
    [
        ([status("a", "running"), status("b")], "b", "idle"),
        ([status("a"), status("b")], "a", "idle"),
        ([status("a", age=1), status("b", "completed", 1.0, age=2)], "b", "idle"),
        ([status("a", "running", 0.6), status("b", "running", 0.2)], "b", "least_progress"),
        ([status("a", "running", running=2), status("b", "running", running=1)], "b", "least_progress"),
    ],
)
def test_load_goes_to_who_is_free_and_was_used_least_lately(pipelines: Any, chosen: str, reason: str) -> None:
    decision = decided(LoadBalancingStrategy(), *pipelines)

    assert decision.decision_type is GroupDecisionType.ROUTE_TO_PIPELINE
    assert (decision.target_pipelines, decision.reason) == ([chosen], f"load_balancing:{reason}")


def test_content_goes_to_the_pipelines_of_the_first_keyword_that_somebody_serves() -> None:
    strategy = ContentBasedRoutingStrategy({"Invoice": ["gone"], "ORDER": ["b", "gone", "a"], "x": ["c"]})

    found = decided(strategy, status("a"), status("b"), given={"text": "an invoice for order 7"})
    other = decided(strategy, status("a"), status("b"), given={"text": "hello"})

    assert (found.target_pipelines, found.reason) == (["b", "a"], "keyword_match:ORDER")
    assert (other.target_pipelines, other.reason) == (["a"], "default_routing")


@pytest.mark.parametrize("strategy", [LoadBalancingStrategy(), ContentBasedRoutingStrategy({"a": ["a"]})])
def test_without_a_pipeline_there_is_nobody_to_route_to(strategy: GroupOrchestrationStrategy) -> None:
    decision = decided(strategy)

    assert decision.decision_type is GroupDecisionType.ESCALATE
    assert (decision.target_pipelines, decision.reason) == ([], "no_pipelines_available")


def test_fan_out_goes_to_all() -> None:
    decision = decided(ParallelFanOutStrategy("vote"), status("a"), status("b"))

    assert decision.decision_type is GroupDecisionType.PARALLEL_PIPELINES
    assert (decision.target_pipelines, decision.aggregation_strategy, decision.reason) == (
        ["a", "b"],
        "vote",
        "fan_out",
    )


def test_a_routed_input_gives_the_pipelines_own_result() -> None:
    first, second = Answers("a", {"n": 1}), Answers("b", {"n": 2})

    assert ran(group(None, first, second)) == {"n": 1}
    assert (first.runs, second.runs) == (["r"], [])


def test_work_spreads_over_pipelines_that_are_done_with_the_last_input() -> None:
    pipelines = [Answers(name, {}) for name in "abc"]
    made = group(None, *pipelines)

    for _ in range(6):
        ran(made)

    assert [len(one.runs) for one in pipelines] == [2, 2, 2]


def test_two_inputs_at_once_go_to_two_pipelines() -> None:
    async def story() -> tuple[list[str], list[dict[str, Any]]]:
        gate = asyncio.Event()
        made = group(None, Answers("a", {"by": "a"}, gate), Answers("b", {"by": "b"}, gate))
        both = asyncio.gather(made.orchestrate("r", {}), made.orchestrate("s", {}))
        await asyncio.sleep(0)
        during = [one.status for one in made.get_pipeline_statuses().values()]
        gate.set()
        return during, await both

    during, results = asyncio.run(story())

    assert during == ["running", "running"]
    assert results == [{"by": "a"}, {"by": "b"}]


def test_a_pipeline_that_fails_gives_its_error_and_is_marked() -> None:
    made = group(None, Answers("a", ValueError("no paper")))

    assert ran(made) == {"error": "no paper"}
    told = made.get_pipeline_statuses()["a"]
    assert (told.status, told.error_count, told.running) == ("failed", 1, 0)


def test_a_group_without_pipelines_does_nothing() -> None:
    assert ran(group(None)) == {}
    assert ran(group(ParallelFanOutStrategy())) == {"error": "no_pipeline_available"}


def test_parallel_pipelines_have_runs_and_statuses_of_their_own() -> None:
    first, second = Answers("a", {"x": 1}), Answers("b", KeyError("gone"))
    made = group(ParallelFanOutStrategy(), first, second)

    assert ran(made) == {"x": 1, "errors": {"b": "'gone'"}}
    assert (first.runs, second.runs) == (["r_a"], ["r_b"])
    statuses = made.get_pipeline_statuses()
    assert [(one.status, one.progress, one.error_count) for one in statuses.values()] == [
        ("completed", 1.0, 0),
        ("failed", 0.0, 1),
    ]


@pytest.mark.parametrize(
    ("aggregation", "whole"),
    [
        ("merge", {"v": 2, "x": 1, "errors": {"d": "no"}}),
        ("all", {"results": [{"v": 1, "x": 1}, {"v": 2}, {"v": 2}], "errors": {"d": "no"}}),
        ("first", {"v": 1, "x": 1}),
        ("vote", {"v": 2}),
    ],
)
def test_several_results_become_one(aggregation: str, whole: dict[str, Any]) -> None:
    answers = [{"v": 1, "x": 1}, {"v": 2}, {"v": 2}, ValueError("no")]
    made = group(
        ParallelFanOutStrategy(aggregation), *(Answers(name, one) for name, one in zip("abcd", answers, strict=True))
    )

    assert ran(made) == whole


@pytest.mark.parametrize("aggregation", ["first", "vote", "merge"])
def test_without_a_result_there_is_nothing_to_choose(aggregation: str) -> None:
    assert group(None)._aggregate_results([], aggregation) == {}


def test_a_vote_that_is_even_goes_to_who_stands_first_and_true_is_not_one() -> None:
    made = group(None)

    assert made._aggregate_results([{"v": 1}, {"v": True}, {"v": True}], "vote") == {"v": True}
    assert made._aggregate_results([{"v": 1}, {"v": 2}], "vote") == {"v": 1}
    assert made._aggregate_results([{"v": NOW}, {"v": 2}, {"v": NOW}], "vote") == {"v": NOW}


def test_an_aggregation_that_there_is_none_is_refused_before_anything_runs() -> None:
    pipeline = Answers("a", {})

    with pytest.raises(ValueError, match="use one of merge, vote, first, all"):
        ran(group(ParallelFanOutStrategy("mean"), pipeline))

    assert pipeline.runs == []


def test_a_pipeline_is_known_by_its_id_and_forgotten_by_it() -> None:
    made = group(None, Answers("a", {}))

    with pytest.raises(InvalidOrchestrationError, match="pipeline_id"):
        made.register_pipeline(SimpleNamespace())  # type: ignore[arg-type]
    told = made.get_pipeline_statuses()["a"]
    made.unregister_pipeline("a")
    made.unregister_pipeline("a")

    assert (told.status, told.progress) == ("idle", 0.0)
    assert made.get_pipeline_statuses() == {}


def test_a_group_of_orchestrators_runs_them_and_sums_up_what_was_mined() -> None:
    metrics = [SimpleNamespace(completion_rate=rate, error_rate=0.5, bottleneck_activities=["x"]) for rate in (1, 0)]
    mined = [Answers("a", {}), Answers("b", {})]
    for pipeline, told in zip(mined, metrics, strict=True):
        pipeline.get_process_metrics = lambda told=told: told  # type: ignore[attr-defined]
    plain = PipelineOrchestrator("p", enable_process_mining=False)
    plain.register_agent("a", Writes("x"))
    made = group(ContentBasedRoutingStrategy({"plain": ["p"]}), *mined, plain)

    assert ran(made, kind="plain") == {"kind": "plain", "x": True}
    assert made.get_group_metrics() == {
        "total_pipelines": 3,
        "avg_completion_rate": 0.5,
        "avg_error_rate": 0.5,
        "bottlenecks": ["x"],
    }
    assert group(None, plain).get_group_metrics() == {"total_pipelines": 1}


def test_the_base_decides_nothing() -> None:
    with pytest.raises(NotImplementedError):
        decided(GroupOrchestrationStrategy())
