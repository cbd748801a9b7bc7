"""Notifications in Postgres: taken with SKIP LOCKED as the sweeper, moved as their tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmteam import codec
from llmteam.db.engine import Database
from llmteam.human.deliveries import CLAIM_SECONDS, Deliveries, Delivery, Due, NotificationRecord
from llmteam.human.models import NotificationKind
from llmteam.ids import new_id

TAKE = """
WITH due AS (
  SELECT tenant_id, notification_id FROM llmteam.notifications
   WHERE wake_at <= now() AND wake_at IS NOT NULL
   ORDER BY wake_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
UPDATE llmteam.notifications n SET wake_at = now() + %s * interval '1 second'
  FROM due
 WHERE n.tenant_id = due.tenant_id AND n.notification_id = due.notification_id
RETURNING n.tenant_id, n.notification_id, n.attempts
"""

#: The number of attempts that was seen is what makes this one the only one.
BEGIN = """
UPDATE llmteam.notifications
   SET attempts = attempts + 1, wake_at = now() + %s * interval '1 second'
 WHERE tenant_id = %s AND notification_id = %s AND attempts = %s AND state = 'pending'
RETURNING request_id, kind, channel, recipients, attempts
"""

_MINE = "tenant_id = %s AND notification_id = %s AND attempts = %s AND state = 'pending'"

DROP = f"DELETE FROM llmteam.notifications WHERE {_MINE}"

#: The recipients come as JSON, since SQL has no arrays of arrays that differ in length.
DIRECT = f"""
WITH gone AS (DELETE FROM llmteam.notifications WHERE {_MINE} RETURNING tenant_id, request_id, kind, created_at)
INSERT INTO llmteam.notifications
       (tenant_id, notification_id, request_id, kind, channel, recipients, wake_at, created_at)
SELECT gone.tenant_id, t.id, gone.request_id, gone.kind, t.channel,
       ARRAY(SELECT json_array_elements_text(t.recipients::json)), now(), gone.created_at
  FROM gone, unnest(%s::text[], %s::text[], %s::text[]) AS t(id, channel, recipients)
"""

DELIVERED = f"""
UPDATE llmteam.notifications
   SET state = 'delivered', wake_at = NULL, last_error = NULL, finished_at = now() WHERE {_MINE}
"""

#: Half a minute, a minute, two … up to an hour, of which a random part of up to a half is left out.
FAILED = f"""
UPDATE llmteam.notifications
   SET state = CASE WHEN attempts >= %s THEN 'dead' ELSE 'pending' END,
       wake_at = CASE WHEN attempts < %s THEN now() + GREATEST(
         LEAST(interval '30 seconds' * power(2, LEAST(attempts - 1, 10)), interval '1 hour') * (0.5 + random() / 2),
         LEAST(%s * interval '1 second', interval '1 hour')) END,
       finished_at = CASE WHEN attempts >= %s THEN now() END,
       last_error = %s
 WHERE {_MINE}
"""

#: Nothing was tried, so that nothing is counted.
POSTPONED = f"""
UPDATE llmteam.notifications
   SET attempts = attempts - 1, wake_at = now() + LEAST(%s * interval '1 second', interval '1 hour') WHERE {_MINE}
"""

RECORDS = """
SELECT notification_id, request_id, kind, channel, recipients, state, attempts, wake_at, last_error, created_at,
       finished_at
  FROM llmteam.notifications
 WHERE tenant_id = %s AND state = ANY(%s)
 ORDER BY notification_id DESC LIMIT %s
"""

RETRY = """
UPDATE llmteam.notifications
   SET state = 'pending', attempts = 0, wake_at = now(), finished_at = NULL
 WHERE tenant_id = %s AND state = 'dead' AND (%s::text[] IS NULL OR notification_id = ANY(%s))
RETURNING notification_id
"""


GIVEN_UP = "SELECT count(*)::integer FROM llmteam.notifications WHERE state = 'dead'"


class PostgresDeliveries(Deliveries):
    """The :class:`~llmteam.human.deliveries.Deliveries` in SQL. A connection is held for one statement at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, limit: int) -> list[Due]:
        """As :meth:`Deliveries.take`."""
        with self._database.hot(None) as connection:
            found = connection.script(TAKE, (limit, CLAIM_SECONDS), role="llmteam_sweeper") or []
        return [Due(*row) for row in found]

    def begin(self, due: Due) -> Delivery | None:
        """As :meth:`Deliveries.begin`."""
        found = self._run(BEGIN, due.tenant_id, CLAIM_SECONDS, due.tenant_id, due.notification_id, due.attempts)
        if not found:
            return None
        request_id, kind, channel, recipients, attempt = found[0]
        return Delivery(
            *(due.tenant_id, due.notification_id, request_id, NotificationKind(kind)),
            *(channel, tuple(recipients), attempt),
        )

    def direct(self, delivery: Delivery, targets: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """As :meth:`Deliveries.direct`."""
        if not targets:
            self.drop(delivery)
            return
        ids, channels = [new_id() for _ in targets], [channel for channel, _ in targets]
        recipients = [codec.dumps(people) for _, people in targets]
        self._run(DIRECT, delivery.tenant_id, *_ident(delivery), ids, channels, recipients)

    def delivered(self, delivery: Delivery) -> None:
        """As :meth:`Deliveries.delivered`."""
        self._run(DELIVERED, delivery.tenant_id, *_ident(delivery))

    def failed(self, delivery: Delivery, error: str, most: int, wait: float) -> None:
        """As :meth:`Deliveries.failed`."""
        self._run(FAILED, delivery.tenant_id, most, most, wait, most, error, *_ident(delivery))

    def postponed(self, delivery: Delivery, wait: float) -> None:
        """As :meth:`Deliveries.postponed`."""
        self._run(POSTPONED, delivery.tenant_id, wait, *_ident(delivery))

    def drop(self, delivery: Delivery) -> None:
        """As :meth:`Deliveries.drop`."""
        self._run(DROP, delivery.tenant_id, *_ident(delivery))

    def records(self, tenant_id: str, states: Sequence[str], limit: int) -> list[NotificationRecord]:
        """As :meth:`Deliveries.records`."""
        found = self._run(RECORDS, tenant_id, tenant_id, list(states), limit)
        return [NotificationRecord(*row) for row in found]

    def retry(self, tenant_id: str, notification_ids: Sequence[str] | None) -> list[str]:
        """As :meth:`Deliveries.retry`."""
        wanted = None if notification_ids is None else list(notification_ids)
        return [row[0] for row in self._run(RETRY, tenant_id, tenant_id, wanted, wanted)]

    def given_up(self) -> int:
        """How many notifications of all tenants are dead."""
        with self._database.hot(None) as connection:
            found = connection.script(GIVEN_UP, role="llmteam_sweeper") or [(0,)]
        return int(found[0][0])

    def _run(self, statement: str, tenant_id: str, *params: Any) -> list[tuple[Any, ...]]:
        with self._database.hot(tenant_id) as connection:
            return connection.script(statement, params) or []


def _ident(delivery: Delivery) -> tuple[str, str, int]:
    return delivery.tenant_id, delivery.notification_id, delivery.attempt
