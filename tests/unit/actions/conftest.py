"""What tests of actions work with: a server on loopback that may be reached, and an executor that waits for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmteam.actions import ActionExecutor, ActionRegistry, ActionResult, MemoryAttemptStore
from llmteam.audit import AuditTrail, MemoryAuditStore
from llmteam.net import OutboundGuard, use_guard
from tests.unit.net.loopback import Loopback, serving


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        running.routes["/hook"] = lambda handler: handler.answer(200, b'{"ok": true}', Content_Type="application/json")
        use_guard(OutboundGuard(allow_private=[running.endpoint]))
        yield running
    use_guard(None)


@dataclass
class Stand:
    """An executor on a registry, and what it wrote and waited."""

    registry: ActionRegistry = field(default_factory=ActionRegistry)
    audit: MemoryAuditStore = field(default_factory=MemoryAuditStore)
    attempts: MemoryAttemptStore = field(default_factory=MemoryAttemptStore)
    waits: list[float] = field(default_factory=list)

    def executor(self, **how: Any) -> ActionExecutor:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        given: dict[str, Any] = {"audit_trail": AuditTrail(self.audit), "attempts": self.attempts}
        given |= {"sleep": sleep, "chance": lambda: 1.0}
        return ActionExecutor(self.registry, **{**given, **how})

    def execute(self, *args: Any, executor: ActionExecutor | None = None, **kwargs: Any) -> ActionResult:
        return asyncio.run((executor or self.executor()).execute(*args, **kwargs))

    def audited(self, tenant_id: str = "default") -> list[Any]:
        """The records of a tenant, the oldest first."""
        return [record for record in self.audit.links(tenant_id, 1, 1000) if hasattr(record, "event_type")]


@pytest.fixture
def stand() -> Stand:
    return Stand()
