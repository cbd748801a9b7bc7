"""``llmteam notifications``: what people were to be told, what became of it, and trying again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from llmteam.cli.options import json_option, load_settings, tenant_option
from llmteam.cli.render import print_json, say, table
from llmteam.cli.servers import installation

if TYPE_CHECKING:
    from llmteam.human.deliveries import Deliveries

STATES = ("pending", "delivered", "dead")


@click.group()
def notifications() -> None:
    """Notifications of requests to people: list, retry."""


@notifications.command(name="list")
@tenant_option
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Only those in this state; may be repeated. Default: pending and dead.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@json_option
def list_notifications(tenant: str, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List notifications, newest first: those that wait to be delivered, and those that were given up."""
    with _opened() as deliveries:
        found = deliveries.records(tenant, states or ("pending", "dead"), limit)
    if as_json:
        print_json([asdict(record) for record in found])
        return
    rows = [
        [
            record.notification_id,
            record.request_id,
            record.kind,
            record.channel or "(none yet)",
            record.state,
            record.attempts,
            record.finished_at or record.wake_at,
            record.last_error,
        ]
        for record in found
    ]
    headings = ["NOTIFICATION", "REQUEST", "KIND", "CHANNEL", "STATE", "TRIED", "ENDED OR NEXT", "ERROR"]
    table(headings, rows, f"no such notifications in tenant {tenant}")


@notifications.command()
@click.argument("notification_ids", metavar="[NOTIFICATION]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead ones of the tenant.")
@tenant_option
@json_option
def retry(notification_ids: tuple[str, ...], everything: bool, tenant: str, as_json: bool) -> None:
    """Deliver dead notifications again, their attempts counted from nothing."""
    if bool(notification_ids) == everything:
        raise click.UsageError("name the notifications, or say --all: `llmteam notifications list` shows them")
    with _opened() as deliveries:
        retried = deliveries.retry(tenant, None if everything else notification_ids)
    left = sorted(set(notification_ids) - set(retried))
    if as_json:
        print_json({"retried": retried, "not_dead": left})
        return
    for one in left:
        say(f"{one} is not among the dead ones of tenant {tenant}")
    click.echo(f"{len(retried)} will be delivered with the next sweep")


@contextmanager
def _opened() -> Iterator[Deliveries]:
    with installation(load_settings()) as place:
        from llmteam.human.postgres.deliveries import PostgresDeliveries

        database = place.database()
        try:
            yield PostgresDeliveries(database)
        finally:
            database.close()
