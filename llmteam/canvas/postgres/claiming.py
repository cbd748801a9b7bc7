"""Claims: one alone, with a look at what finishing the step will need, or several of one run in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from llmteam import codec
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.postgres.scripts import ids_and_visits, read_slice
from llmteam.canvas.records import Claimed, Seen, Work
from llmteam.canvas.state import DEADLINE_GRACE, Key, StepRow
from llmteam.db.engine import Database
from llmteam.db.hot import Script
from llmteam.events.models import EventDraft


@dataclass(frozen=True, slots=True)
class Claim:
    """What :meth:`RunStore.claim` is given."""

    work: Work
    claimed: StepRow
    event: EventDraft
    lease: timedelta
    holder: str
    keys: Sequence[Key] | None
    region: str

    @property
    def latest(self) -> datetime | None:
        """When a sweep looks for the step at the latest."""
        deadline = self.claimed.deadline
        return None if deadline is None else deadline + DEADLINE_GRACE


def claim_one(database: Database, ask: Claim) -> Claimed | None:
    """One claim; the lease runs on the database's clock."""
    header, claimed, event = ask.work.header, ask.claimed, ask.event
    ident = (header.tenant_id, header.run_id)
    params = (
        ask.holder,
        ask.lease,
        ask.lease,
        ask.latest,
        claimed.started_at,
        claimed.deadline,
        *ident,
        *claimed.key,
        ask.work.row.fence,
        *ident,
        ask.region,
        *ident,
        *ident,
        event.event_type.value,
        claimed.started_at,
        header.instance_id,
        header.segment_id,
        event.step_id,
        event.step_type,
        event.visit,
        event.attempt,
        event.severity.value,
        codec.dumps(event.payload),
        *ident,
        *ids_and_visits(ask.keys or ()),
    )
    script = Script().add(sql.NO_WAIT_FOR_DISK).add(sql.LOCK_RUN, *ident).add(sql.CLAIM, *params)
    with database.hot(header.tenant_id) as connection:
        found = script.run(connection)
    if not found:
        return None
    seq, run, loaded = read_slice(header.run_id, found)
    run.running += 1
    if ask.keys is None or run.running > 1:
        return Claimed()
    return Claimed(Seen(seq, run, [*(row for row in loaded.values() if row.key != claimed.key), claimed]))


def claim_many(database: Database, asks: Sequence[Claim]) -> list[Claimed | None]:
    """Claims of one run, each compare-and-set for itself. Nothing is seen: others of the run are running."""
    header, claimed, events = asks[0].work.header, [ask.claimed for ask in asks], [ask.event for ask in asks]
    ident = (header.tenant_id, header.run_id)
    params = (
        [row.step_id for row in claimed],
        [row.visit for row in claimed],
        [ask.work.row.fence for ask in asks],
        [ask.holder for ask in asks],
        [ask.lease for ask in asks],
        [_text(ask.latest) for ask in asks],
        [_text(row.started_at) for row in claimed],
        [_text(row.deadline) for row in claimed],
        [event.event_type.value for event in events],
        [event.step_type for event in events],
        [event.attempt for event in events],
        [event.severity.value for event in events],
        [codec.dumps(event.payload) for event in events],
        *ident,
        *ids_and_visits([row.key for row in claimed]),
        *ident,
        asks[0].region,
        *ident,
        *ident,
        header.instance_id,
        header.segment_id,
    )
    script = Script().add(sql.NO_WAIT_FOR_DISK).add(sql.LOCK_RUN, *ident).add(sql.CLAIM_MANY, *params)
    with database.hot(header.tenant_id) as connection:
        taken = {place for (place,) in script.run(connection) or ()}
    return [Claimed() if place in taken else None for place in range(1, len(asks) + 1)]


def _text(moment: datetime | None) -> str | None:
    """Arrays of text may be all NULL, which the driver cannot tell the type of."""
    return None if moment is None else moment.isoformat()
