"""``llmteam audit``: check a tenant's chain, count a period, write an export, remove old records."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from llmteam.cli import codes
from llmteam.cli.options import json_option, load_settings, tenant_option
from llmteam.cli.render import moment, pairs, print_json, say, table, warn
from llmteam.cli.servers import installation
from llmteam.ids import utc_now

if TYPE_CHECKING:
    from llmteam.audit.chain import ChainVerification
    from llmteam.audit.checkpoints import AuditCheckpoint
    from llmteam.audit.models import AuditReport
    from llmteam.audit.postgres import PostgresAuditStore
    from llmteam.audit.postgres.retention import Keeping
    from llmteam.audit.retention import AuditKeys, Removal
    from llmteam.crypto import SigningKey, VerifyKey

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
#: Faults that are listed on a terminal; JSON has more of them.
_SHOWN = 20


@click.group()
def audit() -> None:
    """The audit trail: check, report, export, and remove what was kept long enough."""


@audit.command()
@tenant_option
@click.option("--file", "export", type=_FILE, help="Check this export instead of the database; needs no server.")
@click.option("--first", type=click.IntRange(1), default=1, show_default=True, help="From this record on.")
@click.option("--last", type=click.IntRange(1), help="Up to this record; by default to the end.")
@click.option("--checkpoint", "checkpoints", type=_FILE, multiple=True, help="A checkpoint kept elsewhere; repeatable.")
@click.option("--public-key", type=_FILE, help="PEM file of the key that must have signed checkpoints and export.")
@json_option
def verify(
    tenant: str,
    export: Path | None,
    first: int,
    last: int | None,
    checkpoints: tuple[Path, ...],
    public_key: Path | None,
    as_json: bool,
) -> None:
    """Check that no record was changed, exchanged, added or taken away; exit code 1 if one was.

    Only checkpoints that were kept elsewhere tell when the whole chain was rewritten.
    """
    from llmteam.audit.checkpoints import trusted_points

    key = _verify_key(public_key)
    known = [_checkpoint(path) for path in checkpoints]
    if export is not None:
        _verify_export(export, known, key, as_json=as_json)
        return
    with _store() as store:
        found = store.check(tenant, first, last, trusted_points(tenant, known, key), keys=_trusted(key))
    if as_json:
        print_json({"tenant_id": tenant, **_facts(found)})
    else:
        _tell(tenant, found)
        _tell_removed(found, checked=bool(_trusted(key)))
    sys.exit(codes.DONE if found.valid else codes.FAILED)


@audit.command()
@tenant_option
@click.option("--from", "start", type=click.DateTime(), help="Since this UTC time; 30 days ago by default.")
@click.option("--to", "end", type=click.DateTime(), help="Until this UTC time, a day as a whole; now by default.")
@click.option("--records", is_flag=True, help="With --json: every record of the period too.")
@json_option
def report(tenant: str, start: datetime | None, end: datetime | None, records: bool, as_json: bool) -> None:
    """Count a period by type, actor and day, list what failed, and check that part of the chain."""
    from llmteam.audit.reports import build_report

    now = utc_now()
    until = now if end is None else _whole_day(end)
    since = until - timedelta(days=30) if start is None else start.replace(tzinfo=UTC)
    if until < since:
        raise click.UsageError("the period ends before it begins: --from must not be later than --to")
    with _store() as store:
        wanted = records and as_json
        made = build_report(store, tenant, since, until, now=now, include_records=wanted, keys=_trusted(None))
    if as_json:
        print_json(_document(made))
    else:
        _show(made)
    sys.exit(codes.DONE if made.chain_valid else codes.FAILED)


@audit.command()
@tenant_option
@click.option("--first", type=click.IntRange(1), default=1, show_default=True, help="From this record on.")
@click.option("--last", type=click.IntRange(1), help="Up to this record; by default to the end.")
@click.option("--signing-key", type=_FILE, help="PEM file of the Ed25519 key that signs the end of the export.")
@click.option("--checkpoint", is_flag=True, help="Write the signed checkpoint alone, to be kept elsewhere.")
@click.option("--output", "-o", type=click.File("w", encoding="utf-8"), default="-", help="Standard output by default.")
def export(
    tenant: str, first: int, last: int | None, signing_key: Path | None, checkpoint: bool, output: TextIO
) -> None:
    """Write records as lines of JSON that `llmteam audit verify --file` checks without the database.

    The chain is checked on the way: what does not hold is not exported.
    """
    from llmteam.audit.exports import export_lines
    from llmteam.audit.trail import take_checkpoint

    key = _signing_key(signing_key)
    if checkpoint and key is None:
        raise click.UsageError("a checkpoint is signed: name the key with --signing-key FILE")
    with _store() as store:
        if checkpoint and key is not None:
            lines = iter([json.dumps(take_checkpoint(store, tenant, key, utc_now()).to_dict())])
        else:
            trusted = _trusted(None if key is None else key.verify_key)
            lines = export_lines(store, tenant, now=utc_now(), first=first, last=last, key=key, keys=trusted)
        output.writelines(f"{line}\n" for line in lines)


@audit.command()
@tenant_option
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--signing-key", type=_FILE, help="PEM file of the key to sign with, before those of LLMTEAM_AUDIT_KEYS.")
@click.option("--by", metavar="NAME", default=getpass.getuser, help="Who does it, for the audit trail; by default you.")
@json_option
def prune(tenant: str, dry_run: bool, signing_key: Path | None, by: str, as_json: bool) -> None:
    """Remove records that were kept for as long as the tenant's audit_retention_days say, whole days of them.

    They are checked, and a signed checkpoint of the last one is kept, from which the chain goes on to be checked.
    Beat does the same for every tenant when LLMTEAM_AUDIT_KEYS is set.
    """
    from llmteam.audit.retention import load_keys

    settings = load_settings()
    keys = load_keys((*([] if signing_key is None else [signing_key]), *settings.audit_keys))
    if keys is None:
        raise click.UsageError("what is removed is signed for: name a key with --signing-key or LLMTEAM_AUDIT_KEYS")
    with _store() as store:
        keeping = store.keeping(tenant, settings.audit_retention_days)
        done = _pruned(store, keeping, keys, by, dry_run=dry_run)
    if as_json:
        days = None if keeping.days is None else round(keeping.days, 6)
        print_json({**asdict(done), "dry_run": dry_run, "kept_days": days, "legal_hold": keeping.held})
        return
    if keeping.held:
        click.echo(f"tenant {tenant} is under a legal hold: nothing is removed")
    elif keeping.days is None:
        click.echo(f"audit records of tenant {tenant} are kept for ever")
    else:
        would = "would be" if dry_run else "are"
        click.echo(
            f"{done.removed:,} audit records of tenant {tenant} {would} removed: older than {keeping.days:g} days"
        )


def _pruned(store: PostgresAuditStore, keeping: Keeping, keys: AuditKeys, by: str, *, dry_run: bool) -> Removal:
    from llmteam.audit.retention import STEP, Removal, kept_since, prune, removable

    tenant, now, removed, up_to = keeping.tenant_id, utc_now(), 0, 0
    if keeping.held or keeping.days is None:
        return Removal(tenant, 0, 0)
    before = kept_since(now, keeping.days)
    if dry_run:
        found = removable(store, tenant, before, keys, store.ends(tenant).last)
        return Removal(tenant, len(found), found[-1].sequence_number if found else 0)
    while True:
        done = prune(store, tenant, before=before, keys=keys, now=now, actor_id=by)
        removed, up_to = removed + done.removed, max(up_to, done.up_to)
        if done.removed < STEP:
            return Removal(tenant, removed, up_to)


@contextmanager
def _store() -> Iterator[PostgresAuditStore]:
    from llmteam.audit.postgres import PostgresAuditStore

    with installation(load_settings()) as place:
        database = place.database()
        try:
            yield PostgresAuditStore(database)
        finally:
            database.close()


def _verify_key(path: Path | None) -> VerifyKey | None:
    from llmteam.crypto import VerifyKey

    return None if path is None else VerifyKey.from_pem(path.read_bytes())


def _signing_key(path: Path | None) -> SigningKey | None:
    from llmteam.crypto import SigningKey

    return None if path is None else SigningKey.from_pem(path.read_bytes())


def _trusted(key: VerifyKey | None) -> tuple[VerifyKey, ...]:
    """The keys that may have signed what retention removed: ``key`` and those of the settings."""
    from llmteam.audit.retention import trusted_keys

    return (*([] if key is None else [key]), *trusted_keys(load_settings().audit_keys))


def _checkpoint(path: Path) -> AuditCheckpoint:
    from llmteam.audit.checkpoints import AuditCheckpoint

    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        document = {}
    return AuditCheckpoint.from_dict(document if isinstance(document, dict) else {})


def _verify_export(path: Path, known: list[AuditCheckpoint], key: VerifyKey | None, *, as_json: bool) -> None:
    from llmteam.audit.exports import check_export

    with path.open(encoding="utf-8", errors="replace") as lines:
        found = check_export(lines, checkpoints=known, key=key, keys=_trusted(key))
    about = {"tenant_id": found.tenant_id, "first": found.first, "last": found.last, "signed_by": found.signed_by}
    if as_json:
        print_json({**about, **_facts(found.chain)})
    else:
        _tell(found.tenant_id, found.chain)
        say(
            f"records {found.first} to {found.last}; "
            + (f"signed by {found.signed_by}" if found.signed_by else "unsigned")
        )
        if found.base is not None:
            say(f"records up to {found.base.sequence_number} were removed; signed by {found.base.key_id or 'nobody'}")
        elif found.first > 1:
            say(f"a part: records before {found.first} were not exported")
    sys.exit(codes.DONE if found.chain.valid else codes.FAILED)


def _facts(found: ChainVerification) -> dict[str, Any]:
    return {
        "valid": found.valid,
        "checked": found.checked,
        "missing": found.missing,
        "faults_total": found.faults_total,
        "faults": [asdict(fault) for fault in found.faults],
        "erased_record_ids": found.erased_record_ids,
        "removed": found.removed,
        "removed_by": found.removed_by,
    }


def _tell(tenant: str, found: ChainVerification) -> None:
    if found.valid:
        click.echo(f"the audit chain of tenant {tenant} holds: {found.checked:,} records checked")
    else:
        click.echo(f"the audit chain of tenant {tenant} does not hold: {found.faults_total:,} faults")
        rows = [[fault.sequence_number, fault.kind.value, fault.record_id, fault.detail] for fault in found.faults]
        table(["RECORD", "FAULT", "ID", "WHAT"], rows[:_SHOWN], "")
    if found.erased_record_ids:
        warn(f"the payloads of {len(found.erased_record_ids):,} records were erased; --json lists them")


def _tell_removed(found: ChainVerification, *, checked: bool) -> None:
    if found.removed:
        signed = f"signed by {found.removed_by or 'nobody'}"
        hint = "" if checked else ": not checked, name the key with --public-key or LLMTEAM_AUDIT_KEYS"
        say(f"records up to {found.removed:,} were removed by retention; {signed}{hint}")


def _whole_day(end: datetime) -> datetime:
    whole = timedelta(days=1) - timedelta(microseconds=1) if end.time() == datetime.min.time() else timedelta()
    return end.replace(tzinfo=UTC) + whole


def _document(made: AuditReport) -> dict[str, Any]:
    records = ("security_incidents", "failed_operations", "records")
    document = {name: getattr(made, name) for name in made.__dataclass_fields__}
    return {**document, **{name: [record.to_dict() for record in document[name]] for name in records}}


def _show(made: AuditReport) -> None:
    pairs(
        {
            "tenant": made.tenant_id,
            "from": moment(made.period_start),
            "to": moment(made.period_end),
            "events": made.total_events,
            "failed": made.failed_operations_total,
            "security": f"{made.security_incidents_total} incidents",
            "chain": "holds" if made.chain_valid else "does not hold: llmteam audit verify",
            "removed": f"records up to {made.removed_up_to:,}" if made.removed_up_to else None,
        }
    )
    for heading, counts in (
        ("TYPE", made.events_by_type),
        ("ACTOR", made.events_by_actor),
        ("DAY", made.events_by_day),
    ):
        if counts:
            click.echo()
            table([heading, "EVENTS"], sorted(counts.items()), "")
    if made.failed_operations:
        click.echo()
        failed = made.failed_operations[:_SHOWN]
        rows = [
            [one.sequence_number, one.timestamp, one.event_type.value, one.actor_id, one.error_message]
            for one in failed
        ]
        table(["RECORD", "TIME", "FAILED", "ACTOR", "ERROR"], rows, "")
