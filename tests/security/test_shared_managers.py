"""One manager in memory serves several tenants: what time does to one's requests stays in that one's trail."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from llmteam.audit import AuditTrail, MemoryAuditStore, TenantAwareAuditTrail
from llmteam.audit.models import AuditQuery
from llmteam.human import HumanInteractionManager, MemoryInteractionStore
from llmteam.tenancy import TenantContext
from tests.conformance.people import MovingClock


def trail_of(audit: MemoryAuditStore, tenant: str) -> list[str]:
    return [record.resource_id for record in audit.select(AuditQuery(tenant_id=tenant, order_desc=False))]


async def a_request_ends_while_another_tenant_asks(manager: HumanInteractionManager, clock: MovingClock) -> list[str]:
    """The ids of both requests: that of the tenant whose time is over first."""
    with TenantContext("acme"):
        late = await manager.request_approval("Pay?", "for acme only", timeout=timedelta(minutes=1))
    clock.ahead += timedelta(hours=1)
    with TenantContext("globex"):
        other = await manager.request_approval("Ship?", "for globex only")
    return [late.request_id, other.request_id]


def test_what_time_does_is_recorded_in_the_trail_of_its_tenant_whoever_asks() -> None:
    audit, clock = MemoryAuditStore(), MovingClock()
    manager = HumanInteractionManager(MemoryInteractionStore(clock), None, TenantAwareAuditTrail(audit), clock=clock)

    late, other = asyncio.run(a_request_ends_while_another_tenant_asks(manager, clock))

    assert set(trail_of(audit, "globex")) == {other}
    assert trail_of(audit, "acme") == [late, late]


def test_a_trail_of_one_tenant_gets_nothing_of_another(caplog: pytest.LogCaptureFixture) -> None:
    audit, clock = MemoryAuditStore(), MovingClock()
    trail = AuditTrail(audit, tenant_id="acme")
    manager = HumanInteractionManager(MemoryInteractionStore(clock), None, trail, clock=clock)

    async def ask() -> list[str]:
        with TenantContext("acme"):
            mine = await manager.request_approval("Pay?", "for acme only")
        manager.audit_trail = None
        with TenantContext("globex"):
            other = await manager.request_approval("Ship?", "for globex only")
        manager.audit_trail = trail
        with TenantContext("acme"):
            await manager.settle()
        return [mine.request_id, other.request_id]

    with caplog.at_level(logging.WARNING):
        mine, other = asyncio.run(ask())

    assert trail_of(audit, "acme") == [mine]
    assert f"what happened to request {other} is not recorded" in caplog.text
