"""A process that writes audit records when told to, through the chain or past it: ``python -m bench.appends URL``.

It says a line when it is ready, then answers each line of its input, ``KIND TENANT COUNT FIRST``, when that is done.
"""

from __future__ import annotations

import sys

from llmteam.audit import AuditDraft, AuditEventType, ChainPoint, PostgresAuditStore
from llmteam.audit.chain import link
from llmteam.audit.postgres.appending import _INSERT, _values
from llmteam.db import Database
from llmteam.ids import utc_now

#: How records are written: each linked to the one before it, or just inserted, numbered by whoever writes.
CHAINED, LOOSE = "chained", "loose"

_DRAFT = AuditDraft(
    event_type=AuditEventType.DATA_UPDATED,
    actor_type="user",
    actor_id="ann@acme.example",
    action="update",
    resource_type="customer",
    resource_id="c-17",
    old_value={"limit": 100},
    new_value={"limit": 900},
)


def main(url: str) -> None:
    """Serve until the input ends."""
    database = Database(url, pool_size=1)
    store = PostgresAuditStore(database)
    print("ready", flush=True)
    for line in sys.stdin:
        kind, tenant, count, first = line.split()
        if kind == CHAINED:
            for _ in range(int(count)):
                store.add(tenant, [_DRAFT])
        else:
            insert(database, tenant, int(count), int(first))
        print("done", flush=True)


def insert(database: Database, tenant: str, count: int, first: int) -> None:
    """The same rows, each in a transaction of one round trip."""
    for number in range(first, first + count):
        record = link(_DRAFT, tenant, ChainPoint(number - 1, "0" * 64), now=utc_now())
        with database.hot(tenant) as connection:
            connection.script(_INSERT.call, _values(record), prepared=(_INSERT,))


if __name__ == "__main__":
    main(sys.argv[1])
