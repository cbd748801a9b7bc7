"""A line for each method of the stores of audit records, events, contexts and data keys."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from llmteam.audit.checkpoints import AuditCheckpoint
from llmteam.audit.models import AuditDraft, AuditEventType, AuditQuery, AuditRecord
from llmteam.audit.postgres import PostgresAuditStore
from llmteam.audit.stores import MemoryAuditStore
from llmteam.context.postgres import PostgresContextStore
from llmteam.context.stores import MemoryContextStore
from llmteam.crypto import SigningKey, WrappedKey
from llmteam.errors import LLMTeamError
from llmteam.events.models import EventQuery, EventType
from llmteam.events.postgres import PostgresEventStore
from llmteam.events.stores import MemoryEventStore
from llmteam.ids import new_id, utc_now
from llmteam.keys.postgres import PostgresKeyStore
from llmteam.keys.stores import MemoryKeyStore
from tests.security.walking import Group, Line, Scene, operator, plain
from tests.unit.events.samples import event

DAY = timedelta(days=1)
CALLS = "calls what it is given"
RETENTION = "retention looks at all tenants, and gets to see names and times only"
SIGNING = SigningKey.generate()


# -- the audit trail


def _draft(scene: Scene) -> AuditDraft:
    return AuditDraft(
        event_type=AuditEventType.DATA_UPDATED,
        run_id="run-1",
        actor_id=scene.canary,
        action=scene.canary,
        resource_id=scene.canary,
        new_value={"said": scene.canary},
        idempotency_key="once",
    )


def _seed_audit(scene: Scene) -> None:
    (record,) = scene.store.add(scene.owner, [_draft(scene)])
    scene.things = SimpleNamespace(record=record, store=scene.store)


def _again(scene: Scene) -> AuditDraft:
    """A draft that repeats the owner's, by its key."""
    return AuditDraft(event_type=AuditEventType.DATA_UPDATED, run_id="run-1", action="mine", idempotency_key="once")


def _next(scene: Scene, tenant: str) -> AuditRecord:
    """A record that would be tied to the owner's last one."""
    record = scene.things.record
    return replace(
        record,
        record_id=new_id(),
        tenant_id=tenant,
        sequence_number=2,
        previous_checksum=record.checksum,
        idempotency_key=None,
        action="mine",
        actor_id="",
        resource_id="",
        new_value=None,
        new_digest="",
        checksum="",
    )


def checkpoint_of(scene: Scene, tenant: str) -> AuditCheckpoint:
    """Says that the owner's record may be removed."""
    checkpoint = AuditCheckpoint(tenant, 1, scene.things.record.checksum, utc_now(), removes=True)
    return checkpoint.signed(SIGNING)


def _released(scene: Scene) -> AuditDraft:
    return AuditDraft(event_type=AuditEventType.DATA_DELETED, action="mine")


def _release(scene: Scene) -> Any:
    return scene.store.release(checkpoint_of(scene, scene.me), _released(scene))


def _remove_released(scene: Scene) -> Any:
    with suppress(LLMTeamError):
        _release(scene)
    return scene.store.remove_released(scene.me, 10)


def _period(scene: Scene) -> tuple[Any, Any]:
    return utc_now() - DAY, utc_now() + DAY


AUDIT = Group(
    stores={PostgresAuditStore: lambda s: PostgresAuditStore(s.db), MemoryAuditStore: lambda s: MemoryAuditStore()},
    seed=_seed_audit,
    look=lambda s: (s.store.links(s.owner, 1, 100), s.store.ends(s.owner)),
    lines={
        "add": Line(lambda s: s.store.add(s.me, [_again(s)])),
        "insert": Line(lambda s: s.store.insert(_next(s, s.me))),
        "select": Line(
            lambda s: s.store.select(AuditQuery(tenant_id=s.me)), further=lambda s: s.store.select(AuditQuery())
        ),
        "links": Line(lambda s: s.store.links(s.me, 1, 10)),
        "ends": Line(lambda s: s.store.ends(s.me)),
        "summarize": Line(lambda s: s.store.summarize(s.me, *_period(s))),
        "total": Line(lambda s: s.store.total(s.me), further=lambda s: _counted(s, s.store.total(None))),
        "call": plain(lambda s: s.store.call(lambda: 1), CALLS),
        "check": Line(lambda s: s.store.check(s.me, 1, 1)),
        "pages": Line(lambda s: s.store.pages(s.me, 1, 10)),
        "point_before": Line(lambda s: s.store.point_before(s.me, 2, s.store.ends(s.owner))),
        "tenant_for": plain(lambda s: s.store.tenant_for(None), "says who is current"),
        "append": Line(lambda s: s.store.append(_next(s, s.me)), naming=lambda s: s.store.append(_next(s, s.owner))),
        "append_chained": Line(
            lambda s: s.store.append_chained(_again(s)),
            naming=lambda s: s.store.append_chained(_again(s), s.owner),
        ),
        "query": Line(
            lambda s: s.store.query(AuditQuery()), naming=lambda s: s.store.query(AuditQuery(tenant_id=s.owner))
        ),
        "get_last_sequence": Line(
            lambda s: s.store.get_last_sequence(s.me), naming=lambda s: s.store.get_last_sequence(s.owner)
        ),
        "get_by_sequence_range": Line(
            lambda s: s.store.get_by_sequence_range(s.me, 1, 10),
            naming=lambda s: s.store.get_by_sequence_range(s.owner, 1, 10),
        ),
        "count": Line(lambda s: s.store.count(), naming=lambda s: s.store.count(s.owner)),
        "release": Line(_release),
        "remove_released": Line(_remove_released, further=lambda s: _counted(s, s.store.remove_released(s.owner, 10))),
    },
    also={
        PostgresAuditStore: {
            "close": plain(lambda s: s.store.close(), "lets go of connections"),
            "keeping": Line(lambda s: s.store.keeping(s.me, 30.0)),
            "due": operator(lambda s: s.store.due(0.0, utc_now() + 2 * DAY, 10_000), RETENTION),
        },
        MemoryAuditStore: {
            "get_all": Line(lambda s: s.store.get_all()),
            "clear": Line(lambda s: s.store.clear()),
        },
    },
)


def _counted(scene: Scene, number: int) -> str:
    """What a count of everybody's gives away to somebody who has none: a canary stands for it."""
    return scene.canary * number


# -- events


def _seed_events(scene: Scene) -> None:
    error = {"error_type": "E", "error_message": scene.canary}
    told = event(new_id(), tenant_id=scene.owner, step_id="a", payload={"said": scene.canary}, error=error)
    scene.things = SimpleNamespace(run=told.run_id, store=scene.store)
    scene.store.add([told])


def _event(scene: Scene, tenant: str) -> Any:
    return event(scene.things.run, tenant_id=tenant, step_id="a", segment_id="", instance_id="")


def _query(scene: Scene) -> EventQuery:
    return EventQuery(tenant_id=scene.me, run_id=scene.things.run)


def _anybodys(scene: Scene) -> EventQuery:
    return EventQuery(run_id=scene.things.run)


EVENTS = Group(
    stores={PostgresEventStore: lambda s: PostgresEventStore(s.db), MemoryEventStore: lambda s: MemoryEventStore()},
    seed=_seed_events,
    look=lambda s: s.things.store.select(EventQuery(tenant_id=s.owner)),
    lines={
        "add": Line(lambda s: s.store.add([_event(s, s.me)])),
        "select": Line(lambda s: s.store.select(_query(s)), further=lambda s: s.store.select(_anybodys(s))),
        "count": Line(lambda s: s.store.count(_query(s)), further=lambda s: _counted(s, s.store.count(_anybodys(s)))),
        "tenant_for": plain(lambda s: s.store.tenant_for(None), "says who is current"),
        "append": Line(lambda s: s.store.append(_event(s, "")), naming=lambda s: s.store.append(_event(s, s.owner))),
        "query": Line(lambda s: s.store.query(run_id=s.things.run), naming=lambda s: s.store.query(tenant_id=s.owner)),
        "get_by_run": Line(lambda s: s.store.get_by_run(s.things.run)),
        "get_by_step": Line(lambda s: s.store.get_by_step(s.things.run, "a")),
        "get_by_type": Line(lambda s: s.store.get_by_type(s.things.run, EventType.STEP_STARTED)),
        "get_by_segment": Line(lambda s: s.store.get_by_segment("triage")),
        "get_by_tenant": Line(lambda s: s.store.get_by_tenant(s.me), naming=lambda s: s.store.get_by_tenant(s.owner)),
        "get_by_time_range": Line(
            lambda s: s.store.get_by_time_range(s.things.run, utc_now() - 10_000 * DAY, utc_now())
        ),
        "get_errors": Line(lambda s: s.store.get_errors(s.things.run)),
        "count_by_run": Line(lambda s: s.store.count_by_run(s.things.run)),
    },
    also={
        PostgresEventStore: {"close": plain(lambda s: s.store.close(), "lets go of connections")},
        MemoryEventStore: {
            "clear": Line(lambda s: s.store.clear()),
            "clear_by_run": Line(lambda s: s.store.clear_by_run(s.things.run)),
        },
    },
)


# -- contexts of runs


def _seed_contexts(scene: Scene) -> None:
    scene.things = SimpleNamespace(run=new_id())
    scene.store.save(scene.owner, scene.things.run, "a", {"said": scene.canary}, 0)


CONTEXTS = Group(
    stores={
        PostgresContextStore: lambda s: PostgresContextStore(s.db),
        MemoryContextStore: lambda s: MemoryContextStore(),
    },
    seed=_seed_contexts,
    look=lambda s: s.store.all(s.owner, s.things.run),
    lines={
        "load": Line(lambda s: s.store.load(s.me, s.things.run, "a")),
        "all": Line(lambda s: s.store.all(s.me, s.things.run)),
        "save": Line(
            lambda s: s.store.save(s.me, s.things.run, "a", {"mine": 1}, 1),
            further=lambda s: s.store.save(s.me, s.things.run, "a", {"mine": 1}, 0),
        ),
        "delete": Line(lambda s: s.store.delete(s.me, s.things.run)),
    },
)


# -- data keys

MANY = "master keys are the installation's: whoever changes them wraps the data keys of all tenants anew"


def _key(scene: Scene) -> WrappedKey:
    return WrappedKey(scene.canary, "first", scene.canary)


def _mine(scene: Scene) -> WrappedKey:
    return WrappedKey("mine", "first", "mine")


def _seed_keys(scene: Scene) -> None:
    scene.store.add_first(scene.owner, _key(scene), utc_now())


KEYS = Group(
    stores={PostgresKeyStore: lambda s: PostgresKeyStore(s.db), MemoryKeyStore: lambda s: MemoryKeyStore()},
    seed=_seed_keys,
    look=lambda s: s.store.all(s.owner),
    lines={
        "all": Line(lambda s: s.store.all(s.me)),
        "add_first": Line(
            lambda s: (s.store.add_first(s.me, _mine(s), utc_now()), [one.key_id for one in s.store.all(s.me)])
        ),
        "add_next": Line(lambda s: s.store.add_next(s.me, _mine(s), utc_now())),
        "rewrap": Line(lambda s: s.store.rewrap(s.me, 1, "first", _mine(s))),
        "destroy": Line(lambda s: s.store.destroy(s.me, utc_now())),
        "wrapped_by_others": operator(lambda s: s.store.wrapped_by_others("second", 10_000), MANY),
        "uses": operator(lambda s: s.store.uses(), MANY),
    },
)
