"""An inbox over real HTTP on a database of the test's own, and somebody who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmteam.db import Database
from llmteam.human import HumanInteractionManager, InteractionRequest
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.tenancy import TenantContext
from llmteam.web import Parts
from tests.site import KEY, Site, TestClock, site_of

Ask = Callable[..., InteractionRequest]


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def site(database: Database, clock: TestClock) -> Iterator[Site]:
    manager = HumanInteractionManager(PostgresInteractionStore(database, clock=clock), clock=clock)
    with site_of(Parts(manager, [KEY], clock=clock)) as site:
        yield site


@pytest.fixture
def ask(site: Site) -> Ask:
    """Asks ann of acme, unless told otherwise: ``ask("approval", "Pay?", …)``."""

    def ask(kind: str, *what: Any, tenant: str = "acme", **fields: Any) -> InteractionRequest:
        fields.setdefault("assignee", "ann")
        with TenantContext(tenant):
            return asyncio.run(getattr(site.manager, f"request_{kind}")(*what, **fields))

    return ask


@pytest.fixture
def amend(site: Site) -> Callable[..., InteractionRequest]:
    """Changes what a request shows."""

    def amend(request: InteractionRequest, **shown: Any) -> InteractionRequest:
        with TenantContext(request.tenant_id):
            return asyncio.run(site.manager.amend(request.request_id, **shown))

    return amend


@pytest.fixture
def state(site: Site) -> Callable[[InteractionRequest], Any]:
    """All that is kept of a request, to see that a refusal has changed nothing."""

    def state(request: InteractionRequest) -> Any:
        core = site.manager.store.core
        ident = (request.tenant_id, request.request_id)
        return core.case(*ident), core.messages(*ident)

    return state
