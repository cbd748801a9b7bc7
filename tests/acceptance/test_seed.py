"""The programming interface as it was promised: every Python block of ``tests/data/seed-README.md`` runs as printed.

The file is verbatim. A block runs after a *prelude* that gives it what a reader has to imagine: names that it uses and
does not define, and an event loop. Nothing of the block is changed. *Afterwards* looks at what it made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.blocks import Block, blocks_of, execute, imports_of

SEED = Path(__file__).parents[1] / "data" / "seed-README.md"

#: Blocks by heading; every heading has one.
BLOCKS = {block.heading: block for block in blocks_of(SEED) if block.language == "python"}


@dataclass(frozen=True)
class Run:
    """How a block is run. ``why`` says what the prelude stands for."""

    why: str
    prelude: str
    afterwards: str
    variables: dict[str, str] = field(default_factory=dict)


RUNS: dict[str, Run] = {
    "Runtime Context": Run(
        why="a store, an HTTP client and a secrets provider of the reader's; an environment that names OpenAI",
        prelude="""
class Values:
    def __init__(self): self.kept = {}
    async def get(self, key): return self.kept.get(key)
    async def set(self, key, value): self.kept[key] = value
    async def delete(self, key): self.kept.pop(key, None)

class Echo:
    async def request(self, method, path, **kwargs): return {"method": method, "path": path}

class Vault:
    async def get_secret(self, secret_id): return {"api_key": "s3cr3t-value"}[secret_id]

redis_store, http_client, vault_provider = Values(), Echo(), Vault()
""",
        afterwards="""
assert store is redis_store
assert secret == "s3cr3t-value" and "s3cr3t" not in repr(secret)
assert callable(llm.complete)
assert (step_ctx.tenant_id, step_ctx.instance_id, step_ctx.step_id) == ("acme", "workflow_123", "process_data")
""",
        variables={"OPENAI_API_KEY": "sk-not-a-real-key"},
    ),
    "Multi-Tenant Isolation": Run(
        why="nothing",
        prelude="",
        afterwards="""
from llmteam.tenancy import current_tenant
config = await manager.get_tenant("acme")
assert (config.name, config.data_region, config.version) == ("Acme Corporation", "eu-west-1", 1)
assert manager.get_limits(config).max_concurrent_pipelines == 10
async with manager.context("acme") as context:
    assert (current_tenant.get(), context.get_config()) == ("acme", config)
assert current_tenant.get() == ""
""",
    ),
    "Audit Trail": Run(
        why="nothing but the date and time class",
        prelude="""
from datetime import datetime
""",
        afterwards="""
from llmteam.audit import AuditQuery
(record,) = await audit.query(AuditQuery())
assert (record.tenant_id, record.actor_id, record.resource_id) == ("acme", "user@acme.com", "pipeline_123")
assert (record.sequence_number, record.previous_checksum, len(record.checksum)) == (1, "", 64)
assert await audit.verify_chain() == (True, [])
assert (report.tenant_id, report.total_events, report.chain_valid) == ("acme", 0, True)
now = await audit.generate_report(record.timestamp, record.timestamp)
assert now.events_by_type == {"pipeline.started": 1}
""",
    ),
    "Context Security": Run(
        why="nothing",
        prelude="",
        afterwards="""
import json
assert "4111" not in repr(context) + str(context._sealed) + repr(vars(context)) + json.dumps(visible)
assert visible["sealed_fields"] == ["card_number", "cvv"] and visible["status"] == "idle"
assert "card_number" not in visible and "reasoning_steps" not in visible
assert context.get_sealed("card_number", "payment_processor") == "4111-1111-1111-1111"
for other in ("orchestrator_1", "another_agent", ""):
    try:
        context.get_sealed("card_number", other)
    except PermissionError:
        continue
    raise AssertionError(other)
assert context.get_visible_context(viewer_id="orchestrator_1", viewer_role="group_orch")["access"] == "denied"
assert context.get_visible_context(viewer_id="another_agent", viewer_role="agent")["access"] == "denied"
""",
    ),
    "Rate Limiting": Run(
        why="a function to call",
        prelude="""
async def call_api(param1): return {"got": param1}
""",
        afterwards="""
assert result.success and result.unwrap() == {"got": "value"}
assert executor.get_health_status() == {
    "external_api": {"healthy": True, "circuit_state": "closed", "rate_limited": False}
}
async def down(param1): raise ConnectionError(param1)
executor.register(
    "external_api", RateLimitConfig(retry_base_delay=0.0), CircuitBreakerConfig(failure_threshold=5, open_timeout=30)
)
failed = [await executor.execute("external_api", down, param1="value") for _ in range(3)]
assert [(one.attempts, one.circuit_open) for one in failed] == [(4, False), (1, True), (1, True)]
""",
    ),
    "Hierarchical Context": Run(
        why="nothing",
        prelude="",
        afterwards="""
assert (child_ctx.parent_id, child_ctx.path) == ("pipeline_1", "pipeline_1/agent_1")
parent_ctx.data["global_config"] = {"region": "eu"}
assert child_ctx.get("global_config") == {"region": "eu"}
seen = parent_ctx.get_visible_children("pipeline_1", "pipeline_orch")
assert seen["agent_1"]["scope"] == "agent"
sibling = context_manager.create_child(parent=parent_ctx, context_id="agent_2", scope=ContextScope.AGENT)
for viewer, role in (("agent_2", "agent"), ("agent_2", "pipeline_orch"), ("pipeline_2", "pipeline_orch")):
    try:
        parent_ctx.get_visible_children(viewer, role)
    except Exception as exc:
        assert type(exc).__name__ == "ContextAccessError"
        continue
    raise AssertionError(viewer)
""",
    ),
    "Licensing": Run(
        why="a tenant",
        prelude="""
tenant_id = "acme"
""",
        afterwards="""
assert can_create is False, "a professional licence allows five, and five are there"
assert await license_manager.check_limit(tenant_id, "pipelines", current=4) is True
assert await license_manager.check_limit("another", "pipelines", current=1) is False
""",
    ),
    "Worktrail Events": Run(
        why="a run and a step with input, output, duration and an error",
        prelude="""
from llmteam.events import ErrorInfo

run_id, step_id = "run-1", "analyze"
input_data, output_data, duration_ms = {"query": "?"}, {"answer": 42}, 17
error_info = ErrorInfo(error_type="ValueError", error_message="no")
""",
        afterwards="""
assert [(e.event_type, e.run_id, e.step_id, e.duration_ms) for e in events] == [
    (EventType.STEP_COMPLETED, "run-1", "analyze", 17)
]
assert events[0].payload == {"output": {"answer": 42}}
assert [e.event_id for e in await store.get_by_run(run_id)] == ["run-1:1", "run-1:2", "run-1:3"]
""",
    ),
    "Segment Definition (JSON Contract)": Run(
        why="nothing",
        prelude="",
        afterwards="""
assert segment.validate() == []
assert SegmentDefinition.from_json(json_data) == segment
assert segment.resolve_entrypoint() == "fetch"
from llmteam.canvas import validate_segment
assert validate_segment(segment).is_valid
""",
    ),
    "Step Catalog": Run(
        why="nothing",
        prelude="",
        afterwards="""
assert {t.type_id for t in all_types} >= {
    "llm_agent", "http_action", "human_task", "condition", "parallel_split", "parallel_join", "transform"
}
assert llm_agent in ai_types and all(t.category is StepCategory.AI for t in ai_types)
assert llm_agent.display_name == "LLM Agent"
assert llm_agent.config_schema["type"] == "object"
assert is_valid is True
""",
    ),
    "External Actions": Run(
        why="the time class, and Slack: a server on loopback that the address leads to",
        prelude="""
import json
from datetime import timedelta
from urllib.parse import urlsplit

import llmteam.actions
from llmteam.net import OutboundGuard, use_guard
from tests.unit.net.loopback import serving

slack = serving()
server = slack.__enter__()
server.routes["/..."] = lambda handler: handler.answer(200, b"ok", Content_Type="text/plain")
use_guard(OutboundGuard(allow_private=[server.endpoint]))
whole = llmteam.actions.ActionConfig

def there(**fields):
    address = urlsplit(fields["endpoint"])
    assert (address.scheme, address.netloc) == ("https", "hooks.slack.com")
    return whole(**{**fields, "endpoint": f"{server.url}{address.path}"})

llmteam.actions.ActionConfig = there
""",
        afterwards="""
llmteam.actions.ActionConfig = whole
use_guard(None)
slack.__exit__(None, None, None)
assert registry.list_actions() == ["notify_slack"]
assert registry.get_config("notify_slack").timeout == timedelta(seconds=10)
assert (result.success, result.status.value, result.response_code) == (True, "completed", 200)
assert (result.response_data, result.error_message, result.retry_count) == ("ok", "", 0)
(received,) = server.received
assert (received.method, json.loads(received.body)) == ("POST", {"text": "Pipeline complete"})
""",
    ),
    "Human Interaction": Run(
        why="somebody who answers, in a task of the same event loop",
        prelude="""
import asyncio
from datetime import timedelta

async def answer():
    while not (asked := await manager.list_pending()):
        await asyncio.sleep(0.01)
    await manager.respond(asked[0].request_id, "admin@company.com", approved=True, comment="fine")

answering = asyncio.create_task(answer())
""",
        afterwards="""
await answering
assert request.interaction_type is InteractionType.APPROVAL
assert (request.title, request.pipeline_id) == ("Approve data processing?", "pipeline_1")
assert request.assignee_id == "admin@company.com"
assert (response.approved, response.responder_id, response.comment) == (True, "admin@company.com", "fine")
assert await manager.list_pending() == []
""",
    ),
    "Persistence": Run(
        why="a pipeline, the state of its agents, and metadata",
        prelude="""
pipeline_id = "invoice_triage"
agents_state = {"risk": {"score": 4}, "totals": {"sum": 12.5}}
metadata = {"reason": "approval", "run_id": "run-77", "current_step": "sign_off"}
""",
        afterwards="""
assert result and result.success
assert (result.pipeline_id, result.run_id, result.current_step) == ("invoice_triage", "run-77", "sign_off")
assert (result.agents_state, result.metadata) == (agents_state, metadata)
assert snapshot.verify() and len(snapshot.checksum) == 64
assert [one.snapshot_id for one in await manager.list_snapshots(pipeline_id)] == [snapshot.snapshot_id]
""",
    ),
    "Segment Runner": Run(
        why="a segment, a runtime, somebody who answers, and the store that is left out as `...`",
        prelude="""
import asyncio
import llmteam.human
from llmteam.canvas import SegmentDefinition, SegmentStatus
from llmteam.runtime import RuntimeContext

whole = llmteam.human.HumanInteractionManager
people = whole(llmteam.human.MemoryInteractionStore())
llmteam.human.HumanInteractionManager = lambda store: people if store is ... else whole(store)

segment = SegmentDefinition.from_dict({
    "segment_id": "sign_off",
    "name": "Sign off",
    "steps": [{"step_id": "ask", "step_type": "human_task", "config": {"task_type": "approval", "title": "{query}?"}}],
})
runtime_context = RuntimeContext("acme", "", "run-1", "sign_off")

async def answer():
    while not (asked := await people.list_pending("acme")):
        await asyncio.sleep(0.01)
    with llmteam.TenantContext("acme"):
        await people.respond(asked[0].request_id, "ann", approved=True)

answering = asyncio.create_task(answer())
""",
        afterwards="""
llmteam.human.HumanInteractionManager = whole
await answering
assert result.status == SegmentStatus.COMPLETED, result.error
assert result.outputs["approved"]["responder"] == "ann", result.outputs
""",
    ),
    "Human Task Handler": Run(
        why="a runner and a segment for the handler and the step, and somebody who answers",
        prelude="import asyncio\nfrom llmteam.canvas import SegmentDefinition, SegmentRunner, StepDefinition",
        afterwards="""
runner = SegmentRunner()
runner.register_handler("human_task", handler)

async def answer():
    while not (asked := await manager.list_pending()):
        await asyncio.sleep(0.01)
    assert (asked[0].title, asked[0].timeout.total_seconds()) == ("Approve Data Processing", 86400)
    await manager.respond(asked[0].request_id, "manager@company.com", approved=False, reason="not yet")

segment = SegmentDefinition(segment_id="sign_off", name="Sign off", steps=[step], edges=[])
result, _ = await asyncio.gather(runner.run(segment, input_data={"rows": 3}), answer())
assert result.outputs["rejected"]["reason"] == "not yet", result
""",
    ),
    "Process Mining": Run(
        why="a case with an activity and its time, in whose names stands what breaks XML",
        prelude="""
from datetime import datetime, timezone

process_id, activity = "order-17", 'pack & "ship" <now>'
timestamp = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
""",
        afterwards="""
import xml.etree.ElementTree as ET

assert (engine.get_event_count(), engine.get_case_count()) == (1, 1)
log = ET.fromstring(xes_data)
xes = "{http://www.xes-standard.org/}"
values = {one.get("key"): one.get("value") for one in log.find(f"{xes}trace/{xes}event")}
assert log.get("xes.version") == "1.0"
assert (values["concept:name"], values["time:timestamp"]) == (activity, "2026-01-02T03:04:05.000+00:00")
""",
    ),
}

#: Blocks that later work makes run, with its topic. Each moves to RUNS when its imports work.
PENDING: dict[str, str] = {
    "Pipeline Orchestration": "Orchestration intelligence and operations",
}


def test_every_block_is_run_or_pending_and_no_other_is_named() -> None:
    every = [block.heading for block in blocks_of(SEED) if block.language == "python"]

    assert sorted(every) == sorted([*RUNS, *PENDING])


@pytest.mark.parametrize("heading", RUNS)
def test_a_block_runs_as_printed(heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, block = RUNS[heading], BLOCKS[heading]
    for name, value in run.variables.items():
        monkeypatch.setenv(name, value)

    execute([("prelude", run.prelude), (block.where, block.text), ("afterwards", run.afterwards)])


@pytest.mark.parametrize("heading", PENDING)
def test_a_pending_block_still_lacks_what_it_imports(heading: str) -> None:
    assert missing(BLOCKS[heading]), f"everything that '{heading}' imports is there: move it from PENDING to RUNS"


def missing(block: Block) -> list[str]:
    """The imports of a block that do not work."""
    failed = []
    for statement in imports_of(block.text):
        try:
            execute([(block.where, statement)])
        except ImportError:
            failed.append(statement)
    return failed
