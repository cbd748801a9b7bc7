"""``llmteam license``: what holds for a tenant; keys to install, to check without a server, and to issue."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmteam.cli import codes
from llmteam.cli.options import json_option, load_settings, tenant_option
from llmteam.cli.render import moment, pairs, print_json, say, table
from llmteam.cli.servers import installation
from llmteam.ids import utc_now

if TYPE_CHECKING:
    from llmteam.crypto import SigningKey, VerifyKey
    from llmteam.licensing import License, LicenseManager, LicenseRecord
    from llmteam.licensing.models import Standing

_Command = TypeVar("_Command", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_KEY = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
_DAY = click.DateTime(["%Y-%m-%d"])
_TIERS = click.Choice(("community", "professional", "enterprise"))
_LIMITS = ("concurrent_pipelines", "agents_per_pipeline", "parallel_agents", "teams", "snapshots")


@click.group(name="license")
def licenses() -> None:
    """Licences of tenants: show, install, set, remove, revoke; keys: verify, issue."""


def _change_options(command: _Command) -> _Command:
    version = click.option(
        "--if-version",
        "version",
        type=click.IntRange(0),
        metavar="N",
        help="Only if this version holds now; 0: none does.",
    )
    by = click.option(
        "--by", metavar="NAME", default=getpass.getuser, help="Who does it, for the audit trail; by default you."
    )
    return by(version(command))


@licenses.command()
@tenant_option
@click.option("--history", is_flag=True, help="What the tenant had before too.")
@json_option
def show(tenant: str, history: bool, as_json: bool) -> None:
    """Show a tenant's licence, what of it holds now, and the limits that follow from its tier and licence together."""
    with _licences() as manager:
        record = asyncio.run(manager.tenants.record(tenant))
        found = asyncio.run(manager.tenants.standing(tenant))
        limits = {name: asyncio.run(manager.tenants.maximum(tenant, name)) for name in _LIMITS}
        before = manager.tenants.store.history(tenant) if history else []
    if as_json:
        document = _document(tenant, record, found, limits)
        print_json({**document, "history": [one.to_dict() for one in before]} if history else document)
        return
    _tell(tenant, record, found, limits)
    if history:
        table(
            ["VERSION", "TIER", "LICENCE", "FROM", "TO", "BY"],
            [
                [one.version, one.license.tier.value, one.license.license_id, one.valid_from, one.valid_to, one.set_by]
                for one in before
            ],
            "the tenant never had a licence",
        )


@licenses.command()
@click.argument("key_file", metavar="FILE", type=_KEY)
@tenant_option
@_change_options
@json_option
def install(key_file: Path, tenant: str, version: int | None, by: str, as_json: bool) -> None:
    """Give a tenant the licence of the key in FILE, - for standard input. A key that is refused changes nothing."""
    text = _text(key_file)
    with _licences(by) as manager:
        record = asyncio.run(manager.install(tenant, text, version=version))
    if as_json:
        print_json(record.to_dict())
    else:
        say(f"tenant {tenant} has the licence {record.license.license_id}: {_terms(record.license)}")


@licenses.command(name="set")
@click.argument("tier", type=_TIERS)
@tenant_option
@click.option("--expires", type=_DAY, metavar="DAY", help="Its last day, as 2030-12-31; it does not expire by default.")
@_change_options
@json_option
def set_tier(tier: str, tenant: str, expires: datetime | None, version: int | None, by: str, as_json: bool) -> None:
    """Give a tenant a licence without a key, as its operator."""
    from llmteam.licensing.models import end_of

    last = None if expires is None else end_of(expires.date())
    with _licences(by) as manager:
        given = asyncio.run(manager.set_license(tenant, tier, expires_at=last, version=version))
    if as_json:
        print_json({"tenant_id": tenant, "license": given.document()})
    else:
        say(f"tenant {tenant} has a licence: {_terms(given)}")


@licenses.command()
@tenant_option
@_change_options
@json_option
def remove(tenant: str, version: int | None, by: str, as_json: bool) -> None:
    """End a tenant's licence, so that its tier alone decides."""
    with _licences(by) as manager:
        asyncio.run(manager.tenants.remove(tenant, version=version))
    if as_json:
        print_json({"tenant_id": tenant, "license": None})
    else:
        say(f"tenant {tenant} has no licence; its tier alone decides")


@licenses.command()
@click.argument("license_id", metavar="LICENCE")
@tenant_option
@click.option("--by", metavar="NAME", default=getpass.getuser, help="Who does it, for the audit trail; by default you.")
@json_option
def revoke(license_id: str, tenant: str, by: str, as_json: bool) -> None:
    """Let a licence be worth the lowest tier, for good, whether the tenant has it yet or not."""
    with _licences(by) as manager:
        done = asyncio.run(manager.tenants.revoke(tenant, license_id))
    if as_json:
        print_json({"tenant_id": tenant, "license_id": license_id, "revoked": done})
    else:
        say(f"the licence {license_id} is revoked for tenant {tenant}" + ("" if done else ", as it was before"))


@licenses.command()
@click.argument("key_file", metavar="FILE", type=_KEY)
@click.option("--tenant", metavar="T", help="Check that it is for this tenant; for any by default.")
@click.option("--public-key", type=_FILE, help="PEM file of what checks it; LLMTEAM_LICENSE_PUBLIC_KEY by default.")
@json_option
def verify(key_file: Path, tenant: str | None, public_key: Path | None, as_json: bool) -> None:
    """Check the licence key in FILE, - for standard input, without any server; exit code 1 if it grants nothing."""
    from llmteam.licensing import LicenseExpiredError, LicenseValidationError, keys

    settings = load_settings()
    known, text = _verify_key(public_key), _text(key_file)
    try:
        found = keys.read(text, known, unsigned=settings.takes_unsigned_licenses)
        keys.check(found, utc_now(), tenant_id=tenant)
        keys.refuse_revoked(found, found.license_id in settings.license_revoked)
    except (LicenseValidationError, LicenseExpiredError) as exc:
        if not as_json:
            raise
        print_json({"valid": False, "fault": getattr(exc, "fault", "expired"), "message": str(exc)})
        sys.exit(codes.FAILED)
    if as_json:
        print_json({"valid": True, "license": found.document()})
    else:
        whose = "any tenant" if found.tenant_id is None else f"tenant {found.tenant_id}"
        say(f"the licence {found.license_id} of {found.owner} holds for {whose}: {_terms(found)}")


@licenses.command()
@click.option("--private-key", type=_FILE, required=True, help="PEM file of the Ed25519 key that signs; yours alone.")
@click.option("--tier", type=_TIERS, required=True)
@click.option("--owner", required=True, metavar="NAME", help="Who has bought it.")
@click.option("--email", default="", metavar="ADDRESS", help="Where they are reached.")
@click.option("--tenant", metavar="T", help="The only tenant that may have it; any by default.")
@click.option("--starts", type=_DAY, metavar="DAY", help="Its first day in UTC; today by default.")
@click.option("--expires", type=_DAY, required=True, metavar="DAY", help="Its last day in UTC, as a whole: 2030-12-31.")
@click.option("--grace-days", type=int, default=14, show_default=True, help="Days for which it holds after that.")
@click.option("--feature", "features", multiple=True, metavar="NAME", help="On top of those of the tier; repeatable.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=N", help="In the place of the tier's; repeatable.")
@click.option("--id", "license_id", metavar="LICENCE", help="What it is called; made up by default.")
def issue(private_key: Path, starts: datetime | None, expires: datetime, limits: tuple[str, ...], **given: Any) -> None:
    """Write a signed licence key to standard output. Needs no server and no settings, only the key that signs.

    `openssl genpkey -algorithm ed25519 -out private.pem` makes one, `openssl pkey -in private.pem -pubout` its public
    half.
    """
    from llmteam.licensing import LicenseTier, keys

    now = utc_now()
    terms = keys.Issue(
        LicenseTier(given["tier"]),
        given["owner"],
        expires=expires.date(),
        starts=now.date() if starts is None else starts.date(),
        email=given["email"],
        tenant_id=given["tenant"],
        features=given["features"],
        limits=dict(map(_limit, limits)),
        grace_days=given["grace_days"],
        license_id=given["license_id"],
    )
    click.echo(keys.issue(_signing_key(private_key), terms, now))


@contextmanager
def _licences(actor_id: str = "") -> Iterator[LicenseManager]:
    from llmteam.audit import PostgresAuditStore, TenantAwareAuditTrail
    from llmteam.licensing import LicenseManager
    from llmteam.licensing.postgres import PostgresLicenseStore
    from llmteam.tenancy.postgres import PostgresTenantStore

    settings = load_settings()
    with installation(settings) as place:
        database = place.database()
        try:
            yield LicenseManager(
                store=PostgresLicenseStore(database),
                tenants=PostgresTenantStore(database),
                log=TenantAwareAuditTrail(PostgresAuditStore(database)),
                actor_id=actor_id,
                settings=settings,
            )
        finally:
            database.close()


def _text(path: Path) -> str:
    """What stands in a file or comes in, but no more than a key can have and a bit."""
    from llmteam.licensing.keys import MAX_LENGTH

    with click.open_file(str(path), "r", encoding="utf-8", errors="replace") as file:
        return str(file.read(2 * MAX_LENGTH + 1)).strip()


def _verify_key(path: Path | None) -> VerifyKey | None:
    from llmteam.crypto import VerifyKey
    from llmteam.licensing import sources

    return sources.public_key(load_settings()) if path is None else VerifyKey.from_pem(path.read_bytes())


def _signing_key(path: Path) -> SigningKey:
    from llmteam.crypto import SigningKey

    return SigningKey.from_pem(path.read_bytes())


def _limit(text: str) -> tuple[str, int]:
    from llmteam.licensing.limits import limit_name

    name, _, number = text.partition("=")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise click.UsageError("a limit is NAME=NUMBER, like teams=25")
    try:
        return limit_name(name), int(number)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from None


def _document(
    tenant: str, record: LicenseRecord | None, found: Standing, limits: dict[str, int | None]
) -> dict[str, Any]:
    return {
        "tenant_id": tenant,
        "state": found.state.value,
        "tier": None if record is None else found.tier.value,
        "limits": limits,
        "record": None if record is None else record.to_dict(),
    }


def _tell(tenant: str, record: LicenseRecord | None, found: Standing, limits: dict[str, int | None]) -> None:
    shown = {name.replace("_", " "): "any" if most is None else f"{most:,}" for name, most in limits.items()}
    if record is None:
        pairs({"tenant": tenant, "licence": "none: its tier alone decides", **shown})
        return
    mine = record.license
    pairs(
        {
            "tenant": tenant,
            "state": found.state.value,
            "tier": mine.tier.value if mine.tier is found.tier else f"{mine.tier.value}, worth {found.tier.value}",
            "licence": mine.license_id or "given by an operator",
            "owner": mine.owner or None,
            "terms": _terms(mine),
            "set": f"{moment(record.valid_from)} by {record.set_by or 'the system'}",
            "version": record.version,
            **shown,
        }
    )


def _terms(found: License) -> str:
    from llmteam.licensing.models import NEVER

    if found.expires_at == NEVER:
        return f"{found.tier.value}, does not expire"
    grace = f", and {found.grace_days} days of grace" if found.grace_days else ""
    last = found.expires_at.astimezone(UTC) - timedelta(microseconds=1)
    return f"{found.tier.value}, up to the end of {last:%Y-%m-%d} (UTC){grace}"
