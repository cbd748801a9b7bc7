"""Runs inside one process have an audit trail too, without anybody giving one."""

from __future__ import annotations

import asyncio

from llmteam.audit import AuditRecord, MemoryAuditStore
from llmteam.canvas import SegmentDefinition, SegmentRunner, StepDefinition
from llmteam.canvas.stores import MemoryRunStore
from llmteam.runtime import RuntimeContextManager, StepContext

ALONE = SegmentDefinition(segment_id="s", name="s", steps=[StepDefinition(step_id="a", step_type="work")])


class Secrets:
    async def get_secret(self, secret_id: str) -> str:
        return f"value of {secret_id}"


def test_what_a_step_reads_is_told_between_the_start_and_the_end_of_its_run() -> None:
    def read(ctx: StepContext, config: object, given: object) -> str:
        return str(len(ctx.get_secret("api_key")))

    async def run() -> str:
        manager = RuntimeContextManager()
        manager.register_secrets_provider(Secrets())
        runner = SegmentRunner(store=MemoryRunStore(audit=audit))
        runner.register_handler("work", read)
        result = await runner.run(ALONE, manager.create_runtime("acme", "i"), {"n": 1})
        return result.status

    audit = MemoryAuditStore()

    assert asyncio.run(run()) == "completed"

    told = [one for one in audit.links("acme", 1, 99) if isinstance(one, AuditRecord)]
    assert [(one.event_type.value, one.resource_id) for one in told] == [
        ("pipeline.started", "s"),
        ("security.access_granted", "api_key"),
        ("pipeline.completed", "s"),
    ]
    assert audit.check("acme").valid
    assert "value of" not in repr(told)
