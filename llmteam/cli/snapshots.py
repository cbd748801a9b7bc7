"""``llmteam runs snapshots|export-snapshot|import-snapshot``: look at snapshots, carry a paused run elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmteam.cli.options import json_option, load_settings, tenant_option
from llmteam.cli.render import moment, print_json, say, table
from llmteam.cli.servers import installation

if TYPE_CHECKING:
    from llmteam.canvas.moving import Moving
    from llmteam.persistence import PipelineSnapshot, PostgresSnapshotStore


@contextmanager
def _moving() -> Iterator[Moving]:
    from llmteam.audit.postgres import PostgresAuditStore
    from llmteam.canvas.moving import Moving
    from llmteam.canvas.postgres import PostgresRunStore
    from llmteam.tenancy.admission import limits_of_tier
    from llmteam.tenancy.models import TenantTier

    settings = load_settings()
    with installation(settings) as place:
        database = place.database()
        try:
            store = PostgresRunStore(database, unknown_tenants=limits_of_tier(TenantTier(settings.default_tier)))
            yield Moving(store.carrying, PostgresAuditStore(database), settings.snapshot_keys)
        finally:
            database.close()


@click.command(short_help="List the snapshots of a run.")
@click.argument("run_id", metavar="RUN")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@tenant_option
@json_option
def snapshots(run_id: str, limit: int, tenant: str, as_json: bool) -> None:
    """List the snapshots of a run, newest first; --json shows all that is in them."""
    from llmteam.persistence import PostgresSnapshotStore
    from llmteam.tenancy import TenantContext

    with installation(load_settings()) as place, TenantContext(tenant):
        database = place.database()
        try:
            found = asyncio.run(_of_run(PostgresSnapshotStore(database), run_id, limit))
        finally:
            database.close()
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    rows = [
        [one.snapshot_id, one.snapshot_type, one.phase, moment(one.created_at), len(one.completed_steps)]
        for one in found
    ]
    table(["SNAPSHOT", "TYPE", "PHASE", "TAKEN", "COMPLETED"], rows, f"run {run_id} has no snapshots")


async def _of_run(store: PostgresSnapshotStore, run_id: str, limit: int) -> list[PipelineSnapshot]:
    from llmteam.persistence.documents import read_text

    entries = await store.entries("run", run_id, limit)
    texts = await store.texts([entry.snapshot_id for entry in entries])
    return [read_text(texts[one.snapshot_id], one.snapshot_id) for one in entries if one.snapshot_id in texts]


@click.command(name="export-snapshot", short_help="Write a paused run to a file.")
@click.argument("run_id", metavar="RUN")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@tenant_option
@json_option
def export_snapshot(run_id: str, file: Path, tenant: str, as_json: bool) -> None:
    """Write a paused run to FILE, with all that it needs to go on in another installation.

    FILE holds what the run has worked on: only you can read it. It is compressed, unless its name ends in .json. The
    run stays here, paused.
    """
    with _moving() as moving:
        data = moving.export_run(tenant, run_id, compress=file.suffix != ".json")
    _write(file, data)
    if as_json:
        print_json({"run_id": run_id, "file": str(file), "bytes": len(data)})
        return
    click.echo(f"run {run_id} is in {file}, {len(data):,} bytes")
    say(f"once it goes on elsewhere, end it here: llmteam runs cancel {run_id}")


@click.command(name="import-snapshot", short_help="Take over a paused run from a file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@tenant_option
@json_option
def import_snapshot(file: Path, tenant: str, as_json: bool) -> None:
    """Take over the paused run in FILE, which `export-snapshot` wrote. It is paused here, too."""
    data = file.read_bytes()
    with _moving() as moving:
        run_id = moving.import_run(tenant, data)
    if as_json:
        print_json({"run_id": run_id, "status": "paused"})
        return
    click.echo(f"run {run_id} is here, paused")
    say(f"go on: llmteam runs resume {run_id}")


def _write(file: Path, data: bytes) -> None:
    """The whole file or none of it, for its owner only."""
    fresh = file.with_name(f"{file.name}.part")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(data)
        fresh.replace(file)
    except OSError as exc:
        fresh.unlink(missing_ok=True)
        raise click.FileError(str(file), exc.strerror) from None
