"""An inbox over real HTTP and Postgres, with a tenant for each test, and somebody who asks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmteam.db import Database
from llmteam.human import HumanInteractionManager, InteractionRequest
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.tenancy import TenantContext
from llmteam.web import Parts
from tests.services import PostgresService
from tests.site import KEY, START, Site, TestClock, site_of

Ask = Callable[..., InteractionRequest]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def running(postgres: PostgresService) -> Iterator[Site]:
    """One site for all tests of a module; each has a tenant of its own there."""
    clock = TestClock()
    database = Database(postgres.create())
    manager = HumanInteractionManager(PostgresInteractionStore(database, clock=clock), clock=clock)
    with site_of(Parts(manager, [KEY], clock=clock)) as site:
        yield site
    database.close()
    postgres.drop_all()


@pytest.fixture
def site(running: Site) -> Site:
    return replace(running, tenant=f"acme-{next(_numbers)}")


@pytest.fixture
def clock(running: Site) -> Iterator[TestClock]:
    """The site's clock."""
    clock = running.parts.clock
    assert isinstance(clock, TestClock)
    yield clock
    clock.now = START


@pytest.fixture
def ask(site: Site) -> Ask:
    """Asks ann, unless told otherwise: ``ask("approval", "Pay?", …)``."""

    def ask(kind: str, *what: Any, tenant: str = "", **fields: Any) -> InteractionRequest:
        fields.setdefault("assignee", "ann")
        with TenantContext(tenant or site.tenant):
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
