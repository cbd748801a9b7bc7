"""``llmteam tenants``: who there is, what they may use, and all that is theirs given out or deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmteam.cli.options import by_option, json_option, load_settings
from llmteam.cli.render import pairs, print_json, say, table
from llmteam.cli.servers import Installation, installation
from llmteam.ids import check_identifier, utc_now

if TYPE_CHECKING:
    from llmteam.audit.postgres import PostgresAuditStore
    from llmteam.db import Database
    from llmteam.tenancy import TenantConfig, TenantManager

_Command = TypeVar("_Command", bound=Callable[..., Any])

_TIERS = ("free", "starter", "professional", "enterprise")
#: Other parts of a record that options set as they are.
_KEPT = ("when_full", "audit_retention_days", "legal_hold")
_LIMITS = ("max_concurrent_pipelines", "max_agents_per_pipeline", "max_requests_per_minute", "max_runs_per_day")


@dataclass(frozen=True)
class _Office:
    """What the commands work with."""

    place: Installation
    database: Database
    audit: PostgresAuditStore
    manager: TenantManager


@click.group()
def tenants() -> None:
    """Tenants: create, list, show, update, deactivate, export, erase."""


def _record_options(command: _Command) -> _Command:
    """Options that set parts of a record."""
    number = click.IntRange(0)
    for option in (
        click.option("--tier", type=click.Choice(_TIERS), help="What it has bought."),
        click.option("--region", metavar="REGION", help="Where its data is worked on."),
        click.option("--max-concurrent-pipelines", type=number, metavar="N", help="Open runs at once."),
        click.option("--max-agents-per-pipeline", type=number, metavar="N", help="Steps of a run that ask a model."),
        click.option("--max-requests-per-minute", type=number, metavar="N", help="Starts in a minute."),
        click.option("--max-storage-gb", type=click.FloatRange(0), metavar="GB", help="What its rows may take."),
        click.option("--max-runs-per-day", type=number, metavar="N", help="Starts in a UTC day."),
        click.option("--when-full", type=click.Choice(("refuse", "queue")), help="What becomes of one run too many."),
        click.option("--audit-retention-days", type=number, metavar="N", help="Keep audit records; 0: for ever."),
        click.option("--legal-hold/--no-legal-hold", default=None, help="Remove no audit records, however old."),
        click.option("--enable", multiple=True, metavar="FEATURE", help="Turn a feature on; may be repeated."),
        click.option("--disable", multiple=True, metavar="FEATURE", help="Turn a feature off; may be repeated."),
    ):
        command = option(command)
    return command


@tenants.command()
@click.argument("tenant_id", metavar="TENANT")
@click.option("--name", help="What people call it; its id by default.")
@_record_options
@by_option
@json_option
def create(tenant_id: str, name: str | None, by: str, as_json: bool, **given: Any) -> None:
    """Create a tenant."""
    from llmteam.tenancy import TenantConfig

    config = TenantConfig(tenant_id, name or tenant_id)
    with _office(by) as office:
        created = asyncio.run(office.manager.create_tenant(_changed(config, given)))
    _show(created, as_json, f"tenant {tenant_id} is created")


@tenants.command(name="list")
@click.option("--all", "everyone", is_flag=True, help="Those that are deactivated too.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave so many out first.")
@json_option
def list_tenants(everyone: bool, limit: int, offset: int, as_json: bool) -> None:
    """List tenants, the oldest first."""
    from llmteam.tenancy.postgres import PostgresTenantStore

    with _office("") as office:
        store = PostgresTenantStore(office.database)
        found = store.page(limit, offset, everyone)
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    rows = []
    for one in found:
        limits = one.get_effective_limits()
        state = "active" if one.is_active else "inactive"
        runs = limits.max_concurrent_pipelines
        rows.append([one.tenant_id, one.name, one.tier.value, state, runs, one.when_full, one.data_region])
    headings = ["TENANT", "NAME", "TIER", "STATE", "RUNS", "WHEN FULL", "REGION"]
    table(headings, rows, "no tenants: llmteam tenants create TENANT makes one")


@tenants.command()
@click.argument("tenant_id", metavar="TENANT")
@json_option
def show(tenant_id: str, as_json: bool) -> None:
    """Show a tenant: its record, what follows from it, and what it stores now."""
    from llmteam.tenancy.postgres.storage import StorageMeter

    with _office("") as office:
        config = asyncio.run(office.manager.get_tenant(tenant_id))
        _show(config, as_json, stored=StorageMeter(office.database).meter(tenant_id).size)


@tenants.command()
@click.argument("tenant_id", metavar="TENANT")
@click.option("--name", help="What people call it.")
@click.option("--active", is_flag=True, help="Activate it again.")
@_record_options
@by_option
@json_option
def update(tenant_id: str, name: str | None, active: bool, by: str, as_json: bool, **given: Any) -> None:
    """Change a tenant; what is not said stays. A limit that is raised holds within seconds."""
    with _office(by) as office:
        config = _changed(asyncio.run(office.manager.get_tenant(tenant_id)), given)
        config.name = name or config.name
        config.is_active = config.is_active or active
        changed = asyncio.run(office.manager.update_tenant(config))
    _show(changed, as_json, f"tenant {tenant_id} is changed")


@tenants.command()
@click.argument("tenant_id", metavar="TENANT")
@click.option(
    "--runs",
    type=click.Choice(("keep", "pause", "cancel")),
    default="keep",
    show_default=True,
    help="What becomes of its open runs. Queued ones wait on, unless cancelled.",
)
@by_option
@json_option
def deactivate(tenant_id: str, runs: str, by: str, as_json: bool) -> None:
    """Have a tenant start nothing more."""
    from llmteam.cli.erasure import cancel_all, pause_all

    with _office(by) as office:
        config = asyncio.run(office.manager.get_tenant(tenant_id))
        config.is_active = False
        asyncio.run(office.manager.update_tenant(config))
        stopped = 0
        if runs != "keep":
            known = office.place.runs()
            try:
                stopped = (pause_all if runs == "pause" else cancel_all)(known, tenant_id, by)
            finally:
                known.close()
    if as_json:
        print_json({"tenant_id": tenant_id, "is_active": False, "runs": runs, "stopped": stopped})
    else:
        click.echo(
            f"tenant {tenant_id} is deactivated; {stopped:,} runs were {runs.rstrip('e')}ed"
            if runs != "keep"
            else f"tenant {tenant_id} is deactivated; its open runs go on"
        )


@tenants.command()
@click.argument("tenant_id", metavar="TENANT")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; standard output by default.")
@by_option
def export(tenant_id: str, output: Path | None, by: str) -> None:
    """Write everything that a tenant owns as JSON Lines: {"table": …, "row": {…}}. Sealed values stay sealed."""
    from llmteam.audit.models import AuditDraft, AuditEventType
    from llmteam.tenancy.postgres.everything import export_lines

    check_identifier("tenant_id", tenant_id)
    lines = 0
    with _office(by) as office, click.open_file(str(output or "-"), "w", encoding="utf-8") as file:
        told = AuditDraft(
            event_type=AuditEventType.DATA_EXPORTED,
            actor_type="user",
            actor_id=by,
            action="export",
            resource_type="tenant",
            resource_id=tenant_id,
        )
        office.audit.add(tenant_id, [told])
        for line in export_lines(office.database, tenant_id):
            file.write(line + "\n")
            lines += 1
    say(f"{lines:,} rows of tenant {tenant_id} written")


@tenants.command()
@click.argument("tenant_id", metavar="TENANT")
@click.option("--yes", is_flag=True, help="Do not ask.")
@by_option
@json_option
def erase(tenant_id: str, yes: bool, by: str, as_json: bool) -> None:
    """Delete everything that a tenant owns, for good. Again after a crash, it goes on.

    Its runs are cancelled, its rows and values deleted. Its audit records stay without what they carry, so that their
    chain can be verified; its id is not given again.
    """
    from llmteam.cli.erasure import Erasure

    check_identifier("tenant_id", tenant_id)
    if not yes:
        click.confirm(f"Delete everything of tenant {tenant_id}? There is no way back", abort=True, err=True)
    gone: dict[str, int] = {}
    with _office(by) as office:
        _refuse_held(office.database, tenant_id)
        known = office.place.runs()
        try:
            erasure = Erasure(
                tenant_id,
                office.database,
                office.audit,
                known,
                actor_id=by,
                clock=utc_now,
                destroy_key=_key_destroyer(office.database, by),
                clear_values=_clear_values(office.place),
            )
            for what, number in erasure.run():
                gone[what] = gone.get(what, 0) + number
        finally:
            known.close()
    deleted = {what: number for what, number in gone.items() if number}
    if as_json:
        print_json({"tenant_id": tenant_id, "erased": deleted})
        return
    click.echo(f"tenant {tenant_id} is erased; its audit chain: llmteam audit verify --tenant {tenant_id}")
    pairs({what: f"{number:,}" for what, number in deleted.items()})


def _refuse_held(database: Database, tenant_id: str) -> None:
    from llmteam.tenancy.postgres import PostgresTenantStore

    record = PostgresTenantStore(database).find(tenant_id)
    if record is not None and record.legal_hold:
        advice = f"llmteam tenants update {tenant_id} --no-legal-hold"
        raise click.ClickException(f"tenant {tenant_id} is under a legal hold: nothing is deleted before {advice}")


def _key_destroyer(database: Database, by: str) -> Callable[[str], object]:
    """What makes everything unreadable that was sealed for the tenant, wherever copies of it are."""
    from llmteam.audit.postgres import key_changes
    from llmteam.crypto import MasterKeys
    from llmteam.keys import TenantKeys
    from llmteam.keys.postgres import PostgresKeyStore

    # Destroying a key needs none that could read it.
    return TenantKeys(PostgresKeyStore(database, record=key_changes(by)), MasterKeys()).destroy


def _clear_values(place: Installation) -> Callable[[str], int]:
    """What forgets the tenant's values in Redis, and copies of its snapshots."""
    from llmteam.persistence import RedisSnapshotStore
    from llmteam.tenancy import TenantContext, TenantIsolatedStore
    from llmteam.tenancy.redis import RedisKeyValueStore

    def clear(tenant_id: str) -> int:
        if place.settings.redis_url is None:
            return 0
        store, snapshots = RedisKeyValueStore(place.settings.redis_url), RedisSnapshotStore(place.settings.redis_url)
        try:
            with TenantContext(tenant_id):
                asyncio.run(snapshots.erase(tenant_id))
                return asyncio.run(TenantIsolatedStore(store).clear_tenant())
        finally:
            store.close()
            snapshots.close()

    return clear


@contextmanager
def _office(actor_id: str) -> Iterator[_Office]:
    from llmteam.audit.postgres import PostgresAuditStore, tenant_changes
    from llmteam.tenancy import TenantManager
    from llmteam.tenancy.postgres import PostgresTenantStore

    with installation(load_settings()) as place:
        database = place.database()
        try:
            audit = PostgresAuditStore(database)
            manager = TenantManager(PostgresTenantStore(database, record=tenant_changes(actor_id)), False)
            yield _Office(place, database, audit, manager)
        finally:
            database.close()


def _changed(config: TenantConfig, given: dict[str, Any]) -> TenantConfig:
    """The record with what the options say."""
    from llmteam.tenancy import TenantTier

    named = (*_LIMITS, *_KEPT, "max_storage_gb")
    changes = {name: given[name] for name in named if given[name] is not None}
    if given["tier"] is not None:
        changes["tier"] = TenantTier(given["tier"])
    if given["region"] is not None:
        changes["data_region"] = given["region"]
    enable, disable = set(given["enable"]), set(given["disable"])
    return config.copy(
        **changes,
        features_enabled=(config.features_enabled | enable) - disable,
        features_disabled=(config.features_disabled | disable) - enable,
    )


def _kept(config: TenantConfig) -> str:
    if config.legal_hold:
        return "kept under a legal hold"
    return f"kept for {config.audit_retention_days} days" if config.audit_retention_days else "kept for ever"


def _show(config: TenantConfig, as_json: bool, done: str = "", *, stored: int | None = None) -> None:
    limits = config.get_effective_limits().to_dict()
    if as_json:
        print_json({**config.to_dict(), "limits": limits, **({} if stored is None else {"stored_bytes": stored})})
        return
    if done:
        say(done)
    features = limits.pop("features")
    pairs(
        {
            "tenant": config.tenant_id,
            "name": config.name,
            "tier": config.tier.value,
            "state": "active" if config.is_active else "inactive",
            "region": config.data_region,
            "when full": config.when_full,
            "audit records": _kept(config),
            **{name.replace("_", " "): f"{value:,}" for name, value in limits.items()},
            "stored": None if stored is None else f"{stored:,} bytes",
            "features": ", ".join(features),
            "disabled": ", ".join(sorted(config.features_disabled)) or None,
            "created": config.created_at,
            "updated": config.updated_at,
        }
    )
