"""``llmteam keys``: which master keys are in use, wrapping data keys anew, a fresh data key for a tenant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from llmteam.cli.options import by_option, json_option, load_settings
from llmteam.cli.render import print_json, say, table
from llmteam.cli.servers import Installation, installation

if TYPE_CHECKING:
    from llmteam.db import Database
    from llmteam.keys import TenantKeys


@click.group()
def keys() -> None:
    """The keys with which values are sealed."""


@keys.command(name="list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the master keys that wrap data keys; one that is not listed may leave LLMTEAM_ENCRYPTION_KEYS."""
    with _keys() as (found, configured):
        rows = [(use.master_id, use.keys, use.master_id in configured) for use in found.uses()]
    if as_json:
        print_json([{"master_id": name, "data_keys": count, "configured": there} for name, count, there in rows])
    else:
        shown = [(name, str(count), "yes" if there else "MISSING") for name, count, there in rows]
        table(["MASTER KEY", "DATA KEYS", "CONFIGURED"], shown, "no data key was made yet")


@keys.command()
@by_option
@json_option
def rewrap(by: str, as_json: bool) -> None:
    """Wrap every data key with the first of LLMTEAM_ENCRYPTION_KEYS. May be stopped and run again at any moment."""
    with _keys(by) as (found, _):
        changed = found.rewrap()
    if as_json:
        print_json({"rewrapped": changed})
    else:
        say(f"{changed} data keys were wrapped anew" if changed else "every data key was wrapped by the current key")


@keys.command()
@click.argument("tenant")
@by_option
@json_option
def renew(tenant: str, by: str, as_json: bool) -> None:
    """Have TENANT seal with a fresh data key from now on; older ones still open what they sealed.

    Also lets a tenant seal again whose keys were destroyed; what they sealed stays unreadable.
    """
    with _place() as (place, database):
        key_id = _tenant_keys(place, database, by).renew(tenant)
    if as_json:
        print_json({"tenant_id": tenant, "key_id": key_id})
    else:
        say(f"tenant {tenant} seals with the key {key_id} from now on")


@contextmanager
def _place() -> Iterator[tuple[Installation, Database]]:
    with installation(load_settings()) as place:
        database = place.database()
        try:
            yield place, database
        finally:
            database.close()


@contextmanager
def _keys(by: str = "") -> Iterator[tuple[TenantKeys, list[str]]]:
    """The keys of the installation, and the ids of the master keys that are set."""
    with _place() as (place, database):
        yield _tenant_keys(place, database, by), [key_id for key_id, _ in place.settings.encryption_keys]


def _tenant_keys(place: Installation, database: Database, by: str) -> TenantKeys:
    from llmteam.audit.postgres import key_changes
    from llmteam.crypto import MasterKeys
    from llmteam.keys import PostgresKeyStore, TenantKeys

    return TenantKeys(PostgresKeyStore(database, record=key_changes(by)), MasterKeys(place.settings.encryption_keys))
