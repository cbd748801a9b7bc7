"""Orchestrators with the engine of process mining that they have by default."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET

from llmteam.roles import GroupOrchestrator, PipelineOrchestrator, ProcessMiningEngine, RuleBasedStrategy
from llmteam.tenancy import TenantContext
from tests.unit.roles.agents import Ticking, Writes

XES = "{http://www.xes-standard.org/}"


def pipeline(pipeline_id: str, *errors: Exception) -> PipelineOrchestrator:
    retried = {"when": "failed_agents", "decision": "retry", "targets": ["$failed_agents"]}
    made = PipelineOrchestrator(pipeline_id, RuleBasedStrategy([retried]), clock=Ticking())
    made.register_agent("writer", Writes("text", errors=list(errors)))
    return made


def test_a_run_is_one_case_that_reached_its_end() -> None:
    orchestrator = pipeline("p")

    asyncio.run(orchestrator.orchestrate("run_1", {}))

    engine, metrics = orchestrator.process_mining, orchestrator.get_process_metrics()
    assert isinstance(engine, ProcessMiningEngine)
    assert (engine.get_case_count(), engine.get_event_count()) == (1, 4)
    assert (metrics.completion_rate, metrics.error_rate, metrics.retry_rate) == (1.0, 0.0, 0.0)
    assert engine.discover_model().transitions == {
        "decision:route": ["writer"],
        "writer": ["decision:end"],
    }


def test_failed_calls_and_retries_are_in_the_metrics() -> None:
    orchestrator = pipeline("p", ValueError())

    asyncio.run(orchestrator.orchestrate("run_1", {}))

    metrics = orchestrator.get_process_metrics()
    assert metrics.error_rate == metrics.retry_rate == 1 / 7


def test_the_exported_log_has_the_name_of_the_pipeline_and_its_runs_as_traces() -> None:
    orchestrator = pipeline("a & b")
    for run_id in ("run_1", "run_2"):
        asyncio.run(orchestrator.orchestrate(run_id, {}))

    text = orchestrator.export_process_model()

    assert text is not None
    log = ET.fromstring(text)
    names = [one.get("value") for one in log.findall(f"{XES}string") if one.get("key") == "concept:name"]
    cases = [one.get("value") for one in log.findall(f"{XES}trace/{XES}string") if one.get("key") == "concept:name"]
    assert (names, cases) == (["a & b"], ["run_1", "run_2"])


def test_runs_of_one_tenant_are_not_in_the_log_of_another() -> None:
    orchestrator = pipeline("p")
    with TenantContext("acme"):
        asyncio.run(orchestrator.orchestrate("run_1", {}))

    with TenantContext("zenith"):
        text = orchestrator.export_process_model()

    assert text is not None
    assert "run_1" not in text


def test_metrics_of_a_group_are_those_of_its_pipelines() -> None:
    group = GroupOrchestrator("g")
    group.register_pipeline(pipeline("p"))

    asyncio.run(group.orchestrate("run_1", {}))

    told = group.get_group_metrics()
    assert (told["total_pipelines"], told["avg_completion_rate"], told["avg_error_rate"]) == (1, 1.0, 0.0)
    assert told["bottlenecks"] == ["writer"]
