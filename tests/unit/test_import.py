from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import llmteam

ROOT = Path(__file__).parents[2]
HEAVY = {"alembic", "celery", "kombu", "psycopg2", "pydantic", "redis", "requests", "sqlalchemy"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_importing_the_package_loads_no_server_library() -> None:
    loaded = python("import sys, llmteam; print(*{name.partition('.')[0] for name in sys.modules})")

    assert loaded.returncode == 0, loaded.stderr
    assert not HEAVY & set(loaded.stdout.split())


@pytest.mark.parametrize(("name", "module"), sorted(llmteam._MODULE_OF.items()))
def test_a_public_name_is_the_one_of_its_package(name: str, module: str) -> None:
    assert getattr(llmteam, name) is getattr(import_module(f"llmteam.{module}"), name)


def test_a_name_stands_in_one_package_only() -> None:
    names = [name for names in llmteam._NAMES.values() for name in names.split()]

    assert sorted(names) == sorted(set(names))


def test_type_checkers_see_the_packages_that_the_names_come_from() -> None:
    source = Path(llmteam.__file__).read_text(encoding="utf-8")

    assert [module for module in llmteam._NAMES if f"    from llmteam.{module} import *\n" not in source] == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("actions.ActionContext", "action_name run_id agent_name tenant_id input_data pipeline_state agent_context"),
        ("actions.ActionResult", "action_name status response_data response_code started_at completed_at duration_ms"),
        ("canvas.RunConfig", "timeout_seconds max_retries timeout retry_delay on_step_start on_step_complete"),
        ("canvas.SegmentResult", "run_id segment_id status outputs error started_at completed_at duration_ms"),
        ("context.SecureAgentContext", "agent_id agent_name confidence status error_count last_action reasoning_steps"),
        ("context.ContextPropagationConfig", "propagate_up propagate_down aggregation_rules"),
        ("execution.TaskResult", "task_id agent_name success result error duration_ms retries"),
        ("licensing.License", "key tier owner owner_email expires_at issued_at features limits"),
        ("ratelimit.EndpointStats", "rate_limiter circuit_breaker total_executions successful_executions"),
        ("ratelimit.ExecutionResult", "success value error attempts total_time_ms rate_limited circuit_open"),
        ("roles.PipelineStatus", "pipeline_id status progress current_step error_count last_update"),
        ("roles.ProcessEvent", "event_id timestamp activity resource case_id lifecycle duration_ms cost attributes"),
        ("runtime.RuntimeContext", "tenant_id instance_id run_id segment_id stores clients llms secrets rate_limiter"),
        ("runtime.StepContext", "runtime step_id"),
        ("tenancy.TenantConfig", "tenant_id name tier max_concurrent_pipelines max_agents_per_pipeline"),
    ],
)
def test_what_may_be_given_by_place_keeps_its_place(name: str, fields: str) -> None:
    module, _, kind = name.partition(".")
    made = getattr(import_module(f"llmteam.{module}"), kind)

    assert list(inspect.signature(made).parameters)[: len(fields.split())] == fields.split()


def test_what_a_runtime_holds_stands_in_the_documented_order() -> None:
    found = list(inspect.signature(llmteam.RuntimeContext).parameters)

    hooks = ["on_step_start", "on_step_complete", "on_step_error", "on_event"]
    assert found[8:16] == ["rate_limiter", "audit_trail", *hooks, "created_at", "data"]


def test_all_names_are_listed() -> None:
    assert set(llmteam.__all__) <= set(dir(llmteam))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'llmteam' has no attribute 'SegmentRuner'"):
        llmteam.SegmentRuner  # noqa: B018


def test_the_version_is_the_installed_one() -> None:
    assert llmteam.__version__ == version("llmteam") == "2.0.0"


def test_tasks_refuse_their_folders_own_name() -> None:
    answer = python("import tasks")

    assert answer.returncode == 1
    assert "import llmteam.tasks" in answer.stderr
