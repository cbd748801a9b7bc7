"""Sessions that hold a lock while something else is made to wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from llmteam.db import Database
from llmteam.db.hot import HotConnection
from tests.conformance.desk import TENANT

LOCK_RUN = "SELECT 1 FROM llmteam.runs WHERE tenant_id = %s AND run_id = %s FOR NO KEY UPDATE"
LOCK_STEP = "SELECT 1 FROM llmteam.run_steps WHERE tenant_id = %s AND run_id = %s AND step_id = %s FOR UPDATE"
LOCK_REQUEST = "SELECT 1 FROM llmteam.interactions WHERE tenant_id = %s AND request_id = %s FOR UPDATE"
LOCK_HEAD = "SELECT 1 FROM llmteam.audit_heads WHERE tenant_id = %s FOR UPDATE"


@contextmanager
def holding(other: Database, statement: str, *values: str) -> Iterator[HotConnection]:
    """A session that holds what ``statement`` locks, until the block ends."""
    with other.hot(TENANT) as session:
        assert session.script(statement, (TENANT, *values), begin=True), "nothing to hold"
        yield session
        session.rollback()


def waits(other: Database) -> bool:
    """Whether a session of the store waits for a lock."""
    look = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'llmteam'"
    with other.login_transaction() as connection:
        return bool(connection.execute(text(look)).scalar_one())


@contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)
