"""A line for each function that works on a database, or on a connection, which it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from llmteam.audit.models import AuditDraft, AuditEventType
from llmteam.audit.postgres import PostgresAuditStore, retention
from llmteam.audit.postgres import appending as audit
from llmteam.canvas.postgres import claiming, finishing, holds, leases, settling
from llmteam.canvas.postgres.scripts import Script
from llmteam.canvas.postgres.store import PostgresRunStore
from llmteam.canvas.state import Change, RunState
from llmteam.context.postgres import PostgresContextStore
from llmteam.db.tables import agent_contexts
from llmteam.events import postgres as events
from llmteam.events.models import EventDraft, EventType
from llmteam.ids import utc_now
from llmteam.keys.postgres import PostgresKeyStore
from llmteam.persistence import SnapshotType
from llmteam.tenancy import TenantConfig
from llmteam.tenancy.postgres import PostgresTenantStore, everything, standing
from tests.security.run_lines import LEASE, holdings, seed_runs
from tests.security.trail_lines import RETENTION, checkpoint_of
from tests.security.walking import Group, Line, Scene, operator


class Functions:
    """Stands for modules, whose functions are walked like a store's methods."""


#: Whose functions have lines; those that only write into a script of the caller's are walked with their callers.
WALKED = {"database": "works on a database", "connection": "works in the caller's transaction"}


def _seed(scene: Scene) -> None:
    scene.store = PostgresRunStore(scene.db)
    seed_runs(scene)
    (record,) = PostgresAuditStore(scene.db).add(scene.owner, [_draft(scene.canary)])
    scene.things = SimpleNamespace(**vars(scene.things), record=record)
    PostgresTenantStore(scene.db).put(TenantConfig(scene.owner, scene.canary, data_region="moon", is_active=False))
    PostgresContextStore(scene.db).save(scene.owner, scene.things.ready, "a", {"said": scene.canary}, 0)


def _capture(tenant: Callable[[Scene], str]) -> Callable[[Scene, Any], Any]:
    """Keeps a snapshot of a run."""

    def call(scene: Scene, connection: Any) -> Any:
        (work, *_), _ = scene.things.claim
        header = replace(work.header, tenant_id=tenant(scene), run_id=scene.things.done)
        change = Change(RunState(header.run_id), utc_now())
        return holds.capture(connection, Script(), header, change, SnapshotType.AUTO).run(connection)

    return call


def _draft(text: str) -> AuditDraft:
    return AuditDraft(
        event_type=AuditEventType.DATA_UPDATED, action=text, new_value={"said": text}, idempotency_key="once"
    )


def _claim(scene: Scene) -> claiming.Claim:
    (work, *more), kwargs = scene.things.claim
    given = inspect.signature(PostgresRunStore.claim).bind(None, work, *more, **kwargs)
    given.apply_defaults()
    known = {name: value for name, value in given.arguments.items() if name not in ("self", "work")}
    header = replace(work.header, tenant_id=scene.me)
    return claiming.Claim(replace(work, header=header), **known, region="default")


def _move(scene: Scene) -> finishing.Move:
    (header, keys, transition, nodes), given = scene.things.apply
    known = {name: given.get(name) for name in ("finished", "output", "local_state")}
    return finishing.Move(replace(header, tenant_id=scene.me), keys, transition, nodes, given["now"], **known)


def _in_own(use: Callable[[Scene, Any], Any]) -> Callable[[Scene], Any]:
    """In a transaction of the caller's."""

    def call(scene: Scene) -> Any:
        with scene.db.hot(scene.me) as connection:
            connection.script("SELECT 1", begin=True)
            found = use(scene, connection)
            connection.script("COMMIT")
            return found

    return call


def _append_audit(tenant: Callable[[Scene], str]) -> Callable[[Scene], Any]:
    return _in_own(lambda s, connection: audit.append_in(connection, tenant(s), [_draft("mine")], now=utc_now()))


def _append_whole(scene: Scene, tenant: str) -> Any:
    with scene.db.hot(scene.me) as connection:
        return audit.append(
            connection, tenant, [_draft("mine")], now=utc_now(), sensitive=lambda name: False, whole=True
        )


def _append_with(scene: Scene, tenant: str) -> Any:
    draft = replace(_draft("mine"), idempotency_key=None)
    with scene.db.tenant_transaction(scene.me) as connection:
        audit.append_with(connection, tenant, [draft], now=utc_now())


def _lock_head(tenant: Callable[[Scene], str]) -> Callable[[Scene], Any]:
    return _in_own(lambda s, connection: audit.lock_head(connection, tenant(s), [_draft("mine")], begin=False))


def _check_standing(tenant: Callable[[Scene], str]) -> Callable[[Scene], Any]:
    """Of the owner, who is deactivated, which only the owner is told."""

    def call(scene: Scene) -> Any:
        with scene.db.tenant_transaction(scene.me) as connection:
            standing.check_standing(connection, tenant(scene))

    return call


def _settle(scene: Scene) -> Any:
    _, given = scene.things.apply
    return settling.settle_unlocked(scene.db, _move(scene), given["finished"], given["seen"])


def _insert_audit(tenant: Callable[[Scene], str]) -> Callable[[Scene], Any]:
    def insert(scene: Scene, connection: Any) -> Any:
        kept = replace(scene.things.record, tenant_id=tenant(scene), sequence_number=2, idempotency_key=None)
        audit.insert_in(connection, tenant(scene), [kept])

    return _in_own(insert)


def _append_events(tenant: Callable[[Scene], str]) -> Callable[[Scene], Any]:
    def call(scene: Scene) -> Any:
        drafts = [EventDraft(EventType.STEP_STARTED, step_id="mine")]
        with scene.db.tenant_transaction(scene.me) as connection:
            return events.append_in(connection, tenant(scene), scene.things.done, drafts, now=utc_now())

    return call


def _release(scene: Scene) -> Any:
    return _in_own(lambda s, connection: retention.release_in(connection, checkpoint_of(s, s.owner)))(scene)


def _me(scene: Scene) -> str:
    return scene.me


def _owner(scene: Scene) -> str:
    return scene.owner


def _erase(delete: Callable[[Scene], int]) -> Callable[[Scene], Any]:
    """Of a tenant that has been said to be gone: the caller's own."""

    def call(scene: Scene) -> Any:
        everything.mark_erased(scene.db, scene.me, utc_now())
        PostgresKeyStore(scene.db).destroy(scene.me, utc_now())
        return delete(scene)

    return call


def _unmarked(delete: Callable[[Scene], int]) -> Callable[[Scene], Any]:
    """The owner's, which nobody said is gone: not even the sweeper deletes that."""

    def call(scene: Scene) -> Any:
        return scene.canary * delete(scene)

    return call


FUNCTIONS = Group(
    stores={Functions: lambda s: PostgresRunStore(s.db)},
    seed=_seed,
    lines={
        "canvas.postgres.claiming.claim_one": Line(lambda s: claiming.claim_one(s.db, _claim(s))),
        "canvas.postgres.claiming.claim_many": Line(lambda s: claiming.claim_many(s.db, [_claim(s), _claim(s)])),
        "canvas.postgres.finishing.finish_many": Line(lambda s: finishing.finish_many(s.db, [_move(s)])),
        "canvas.postgres.settling.settle_unlocked": Line(_settle),
        "canvas.postgres.holds.read_all": Line(
            _in_own(lambda s, connection: holds.read_all(connection, (s.me, s.things.done))),
            further=_in_own(lambda s, connection: holds.read_all(connection, (s.owner, s.things.done))),
        ),
        "canvas.postgres.holds.capture": Line(_in_own(_capture(_me)), naming=_in_own(_capture(_owner))),
        "canvas.postgres.leases.renew": Line(lambda s: leases.renew(s.db, holdings(s), LEASE)),
        "canvas.postgres.leases.lost": Line(lambda s: leases.lost(s.db, holdings(s))),
        "audit.postgres.appending.append_in": Line(_append_audit(_me), naming=_append_audit(_owner)),
        "audit.postgres.appending.append": Line(
            lambda s: _append_whole(s, s.me), naming=lambda s: _append_whole(s, s.owner)
        ),
        "audit.postgres.appending.append_with": Line(
            lambda s: _append_with(s, s.me), naming=lambda s: _append_with(s, s.owner)
        ),
        "audit.postgres.appending.lock_head": Line(_lock_head(_me), naming=_lock_head(_owner)),
        "audit.postgres.appending.insert_in": Line(_insert_audit(_me), naming=_insert_audit(_owner)),
        "audit.postgres.retention.release_in": operator(
            _in_own(lambda s, connection: retention.release_in(connection, checkpoint_of(s, s.owner))),
            "the sweeper keeps checkpoints, for every tenant",
        ),
        "audit.postgres.retention.remove_batch": operator(
            lambda s: (_release(s), retention.remove_batch(s.db, s.owner, 10)),
            "the sweeper removes what a checkpoint released, for every tenant",
        ),
        "audit.postgres.retention.keeping_of": Line(lambda s: retention.keeping_of(s.db, s.me, 30.0)),
        "audit.postgres.retention.due": operator(
            lambda s: retention.due(s.db, 0.0, utc_now() + timedelta(days=2), 10_000), RETENTION
        ),
        "events.postgres.append_in": Line(_append_events(_me), naming=_append_events(_owner)),
        "tenancy.postgres.standing.check_standing": Line(_check_standing(_me), further=_check_standing(_owner)),
        "tenancy.postgres.standing.region_of_tenant": Line(lambda s: standing.region_of_tenant(s.db, s.me)),
        "tenancy.postgres.standing.tenants_by_region": operator(
            lambda s: standing.tenants_by_region(s.db), "`doctor` counts the tenants of each region"
        ),
        "tenancy.postgres.everything.export_lines": Line(lambda s: list(everything.export_lines(s.db, s.me))),
        "tenancy.postgres.everything.mark_erased": Line(lambda s: everything.mark_erased(s.db, s.me, utc_now())),
        "tenancy.postgres.everything.delete_batch": Line(
            _erase(lambda s: everything.delete_batch(s.db, s.me, agent_contexts)),
            further=_unmarked(lambda s: everything.delete_batch(s.db, s.owner, agent_contexts)),
        ),
        "tenancy.postgres.everything.empty_audit_batch": Line(
            _erase(lambda s: everything.empty_audit_batch(s.db, s.me)),
            further=_unmarked(lambda s: everything.empty_audit_batch(s.db, s.owner)),
        ),
    },
)
