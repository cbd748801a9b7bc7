"""A manager on a store in memory writes the audit trail that it is given; one in SQL has written it already."""

from __future__ import annotations

import asyncio

from llmteam.audit import AuditQuery, AuditTrail, MemoryAuditStore
from llmteam.human import HumanInteractionManager, MemoryInteractionStore


def test_each_change_of_a_request_is_in_the_audit_trail() -> None:
    trail = AuditTrail(MemoryAuditStore(), tenant_id="default")
    manager = HumanInteractionManager(MemoryInteractionStore(), audit_trail=trail)

    async def story() -> str:
        request = await manager.request_approval(message="Pay?", assignee="ann", agent_name="cashier")
        await manager.claim(request.request_id, "ann")
        await manager.respond(request.request_id, "ann", approved=False, reason="too much")
        return request.request_id

    request_id = asyncio.run(story())
    records = asyncio.run(trail.query(AuditQuery(order_by="sequence_number", order_desc=False)))

    assert [(record.event_type, record.action, record.actor_id) for record in records] == [
        ("approval.requested", "request", "cashier"),
        ("data.updated", "claim", "ann"),
        ("approval.rejected", "reject", "ann"),
    ]
    assert {record.resource_id for record in records} == {request_id}
    assert asyncio.run(trail.verify_chain()).valid
