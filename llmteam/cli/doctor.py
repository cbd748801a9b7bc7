"""``llmteam doctor``: every setting with its source, and whether what it names works."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

import click

from llmteam.cli import codes
from llmteam.cli.options import import_modules, json_option, load_settings
from llmteam.cli.render import coloured, print_json, table
from llmteam.cli.servers import Installation, is_embedded
from llmteam.dispatch import is_ours, queues_in
from llmteam.errors import LLMTeamError
from llmteam.ids import utc_now
from llmteam.regions import region_of
from llmteam.settings import Settings, mask_url
from llmteam.telemetry import printable

Outcome = Literal["ok", "info", "warning", "failed"]

_DEAF_ADVICE = (
    "it restarts itself (LLMTEAM_DEAF_SECONDS); if this comes back, see its log and what lies between it and Redis"
)


#: Seconds that the mail server has to answer.
_MAIL_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``advice`` is what to do about it."""

    name: str
    outcome: Outcome
    found: str
    advice: str = ""


@click.command(short_help="Show and check every setting.")
@json_option
def doctor(as_json: bool) -> None:
    """Show each setting with its source and check what it names; exit code 1 when a check fails.

    Looking starts nothing: embedded servers that are down are reported as such.
    """
    settings = load_settings()
    checks = list(_checks(settings))
    if as_json:
        shown = [dict(zip(("name", "value", "source"), row, strict=True)) for row in settings.sources()]
        print_json({"settings": shown, "checks": [asdict(check) for check in checks]})
    else:
        table(["SETTING", "VALUE", "SOURCE"], settings.sources(), "")
        click.echo()
        for check in checks:
            gap = " " * (9 - len(check.outcome))
            click.echo(f"{coloured(check.outcome)}{gap}{check.name}: {printable(check.found)}")
            if check.advice:
                click.echo(f"         → {printable(check.advice)}")
    sys.exit(codes.FAILED if any(check.outcome == "failed" for check in checks) else codes.DONE)


def _checks(settings: Settings) -> Iterator[Check]:
    yield from _attempt("imports", lambda: _imports(settings))
    with contextlib.ExitStack() as stack:
        place: Installation | None = Installation(settings)
        if is_embedded(settings):
            found = list(_attempt("embedded servers", lambda: _embedded(settings)))
            yield from found
            place = _join(settings, stack) if found[0].outcome == "ok" else None
        if place is not None:
            yield from _attempt("database", lambda: _database(place))
            yield from _attempt("broker", lambda: _broker(place.settings))
            yield from _attempt("result backend", lambda: _backend(place.settings))
            yield from _attempt("limits", lambda: _limits(place.settings))
            yield from _attempt("workers", lambda: _workers(place))
            yield from _attempt("regions", lambda: _regions(place))
            yield from _attempt("queues", lambda: _queues(place.settings))
            yield from _attempt("deaf workers", lambda: _deaf(place.settings))
            yield from _attempt("sweeps", lambda: _sweeps(place))
            yield from _attempt("data keys", lambda: _data_keys(place))
            yield from _attempt("dead notifications", lambda: _dead_notifications(place))
    yield from _start_keys(settings)
    yield from _web_keys(settings)
    yield from _encryption_keys(settings)
    yield from _attempt("notifications", lambda: _notifications(settings))
    yield from _attempt("mail server", lambda: _mail(settings))


def _attempt(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except LLMTeamError as exc:
        yield Check(name, "failed", str(exc))


def _imports(settings: Settings) -> Iterator[Check]:
    import_modules(settings)
    if settings.imports:
        yield Check("imports", "ok", ", ".join(settings.imports))


def _embedded(settings: Settings) -> Iterator[Check]:
    from llmteam.embedded import status

    found = status(settings.home)
    for server in found.servers:
        if server.version == "not installed":
            yield Check(
                "embedded servers",
                "failed",
                f"{server.name} is not installed",
                "pip install 'llmteam[embedded]', or set LLMTEAM_DATABASE_URL and LLMTEAM_BROKER_URL",
            )
            return
    versions = ", ".join(f"{server.name} {server.version}" for server in found.servers)
    if not found.running:
        text = f"{versions}: not running in {settings.home}"
        yield Check("embedded servers", "info", text, "llmteam run and llmteam up start them")
        return
    owners = ", ".join(f"process {owner.pid}" for owner in found.owners) or "nobody"
    yield Check("embedded servers", "ok", f"{versions}: running in {settings.home}, kept by {owners}")
    for server in found.servers:
        if server.restarts:
            yield Check(server.name, "warning", f"ended {server.restarts} times unasked", "see the log in its folder")


def _join(settings: Settings, stack: contextlib.ExitStack) -> Installation:
    """The running embedded servers, with their addresses; nothing is made in them."""
    from llmteam.embedded import start

    postgres, valkey = settings.database_url is None, settings.broker_url is None
    servers = stack.enter_context(start(settings.home, postgres=postgres, valkey=valkey))
    urls = settings.with_servers(
        database_url=servers.database_url if postgres else "",
        broker_url=servers.broker_url if valkey else "",
        migration_url=servers.migration_url if postgres else None,
    )
    return Installation(replace(urls, home=servers.home), servers)


def _database(place: Installation) -> Iterator[Check]:
    url = place.settings.database_url
    if url is None:
        yield Check("database", "failed", "LLMTEAM_DATABASE_URL is not set", "set it")
        return
    database = place.database("llmteam-doctor")
    try:
        database.check_login()
        risk = database.owner_risk()
        if risk is None:
            yield Check("database login", "ok", "bound by row security, owns nothing, cannot become the owner")
        else:
            yield Check("database login", "warning", risk.found, risk.advice)
        database.check_schema()
        yield Check("database", "ok", f"{mask_url(url)}, tables at {database.current()}")
    finally:
        database.close()


def _broker(settings: Settings) -> Iterator[Check]:
    from llmteam.cli.fleet_view import check_broker

    check_broker(settings)
    yield Check("broker", "ok", mask_url(settings.broker_url or ""))


def _backend(settings: Settings) -> Iterator[Check]:
    from llmteam.cli.fleet_view import counts_chords

    if counts_chords(settings):
        yield Check("result backend", "ok", f"{mask_url(settings.result_backend or '')}, counts chords")
    else:
        yield Check(
            "result backend",
            "warning",
            "cannot count chords, so that joins are hinted at by their last branch alone",
            "set LLMTEAM_RESULT_BACKEND to a Redis",
        )


def _limits(settings: Settings) -> Iterator[Check]:
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
    from llmteam.ratelimit.limits.redis import RedisLimitBackend

    part = "all" if settings.limit_workers == 1 else f"1/{settings.limit_workers}"
    alone = f"each process takes {part} of a limit for itself"
    if settings.redis_url is None:
        fix = "set LLMTEAM_REDIS_URL, or LLMTEAM_LIMIT_WORKERS to the number of processes"
        yield Check("limits", "warning", f"there is no Redis to share: {alone}", fix)
        yield Check("circuits", "warning", "there is no Redis to share: each process has its own", fix)
        return
    place = mask_url(settings.redis_url)
    limits, circuits = RedisLimitBackend(settings.redis_url), RedisCircuitBackend(settings.redis_url)
    for name, backend, shared, away in (
        ("limits", limits, f"counted for all workers in {place}", alone),
        ("circuits", circuits, f"kept for all workers in {place}", "each process has its own"),
    ):
        backend.check()
        state = backend.backend_state()
        backend.close()
        if state.shared:
            yield Check(name, "ok", shared)
        else:
            found = f"{state.place} does not answer ({state.error}): {away}, or as on_backend_error says"
            yield Check(name, "failed", found, "mend it, and set LLMTEAM_LIMIT_WORKERS to the number of processes")


def _workers(place: Installation) -> Iterator[Check]:
    from llmteam.cli.fleet_view import consumers

    found = consumers(place.settings)
    for worker, queues in found.items():
        yield Check("worker", "ok", f"{worker}: {', '.join(queues)}")
    served = {queue for queues in found.values() for queue in queues}
    if missing := [queue for queue in queues_in(place.settings.region) if queue not in served]:
        # `llmteam run` brings its own to embedded servers.
        outcome: Outcome = "info" if place.embedded else "warning"
        yield Check("workers", outcome, f"nobody consumes {', '.join(missing)}", "start llmteam worker, or llmteam up")


def _regions(place: Installation) -> Iterator[Check]:
    from llmteam.canvas.phrases import count as counted
    from llmteam.cli.fleet_view import consumers
    from llmteam.tenancy.postgres.standing import tenants_by_region

    database = place.database("llmteam-doctor")
    try:
        homes = tenants_by_region(database)
    finally:
        database.close()
    queues = {queue for found in consumers(place.settings).values() for queue in found if is_ours(queue)}
    served = {region_of(queue) for queue in queues}
    yield Check("region", "ok", f"{place.settings.region}; workers serve {', '.join(sorted(served)) or 'none'}")
    for region, number in sorted(homes.items()):
        if region in served or (place.embedded and region == place.settings.region):
            continue
        found = f"no worker serves {region}, where {counted(number, 'tenant')} {'has' if number == 1 else 'have'} runs"
        yield Check("region", "warning", found, f"start llmteam worker with LLMTEAM_REGION={region}")


def _queues(settings: Settings) -> Iterator[Check]:
    from llmteam.cli.fleet_view import depths

    found = depths(settings)
    yield Check("queues", "ok", ", ".join(f"{name} {count}" for name, count in found.items()))
    if any(found.values()):
        yield from _idlers(settings)


def _idlers(settings: Settings) -> Iterator[Check]:
    """Messages wait: for somebody who is busy, or for nobody who hears?"""
    from llmteam.cli.fleet_view import consumers, idlers

    for idler in idlers(settings, consumers(settings)):
        text = f"{idler.waiting} messages wait, and {idler.worker} has {idler.free} places free and takes none"
        yield Check(idler.queue, "warning", text, _DEAF_ADVICE)


def _deaf(settings: Settings) -> Iterator[Check]:
    from llmteam.cli.fleet_view import deaf_notices

    now = utc_now()
    for notice in deaf_notices(settings):
        done = "its process was ended" if notice.ended else "its connection was made anew"
        text = f"{notice.age(now):.0f} s ago it received nothing although {notice.total} messages waited; {done}"
        yield Check(f"worker {notice.worker}", "warning", text, _DEAF_ADVICE)


def _sweeps(place: Installation) -> Iterator[Check]:
    from llmteam.canvas.postgres.sweeps import PostgresSweeps
    from llmteam.canvas.sweeper import ESSENTIAL

    database = place.database("llmteam-doctor")
    try:
        ages = PostgresSweeps(database).ages()
    finally:
        database.close()
    limit = 3 * place.settings.sweep_seconds
    missing = [name for name in ESSENTIAL if name not in ages]
    old = {name: age for name, age in ages.items() if name in ESSENTIAL and age > limit}
    if not ages:
        yield Check("sweeps", "info", "none is recorded")
    elif missing or old:
        told = [f"{name} ended {age:.0f} s ago" for name, age in old.items()] + [
            f"{name} never ran" for name in missing
        ]
        yield Check("sweeps", "warning", "; ".join(told), "start llmteam beat, or llmteam up")
    else:
        age = max(ages[name] for name in ESSENTIAL)
        yield Check("sweeps", "ok", f"{', '.join(ESSENTIAL)}: the oldest ended {age:.0f} s ago")


def _start_keys(settings: Settings) -> Iterator[Check]:
    if settings.start_keys:
        yield Check("start keys", "ok", f"starts by message are signed for {', '.join(settings.start_keys)}")
    else:
        yield Check(
            "start keys",
            "info" if is_embedded(settings) else "warning",
            "whoever can write to the broker can start runs for any tenant",
            "set LLMTEAM_START_KEYS if others can reach the broker",
        )


def _web_keys(settings: Settings) -> Iterator[Check]:
    if settings.web_keys:
        yield Check("web keys", "ok", "answer links and access tokens can be signed")
    elif is_embedded(settings):
        yield Check("web keys", "info", "an embedded home makes one for itself")
    else:
        yield Check(
            "web keys",
            "warning" if settings.public_url else "info",
            "notifications carry no answer links, and nobody can sign in to a web inbox",
            "set LLMTEAM_WEB_KEYS to the output of: openssl rand -hex 32",
        )


def _encryption_keys(settings: Settings) -> Iterator[Check]:
    if settings.encryption_keys:
        name, *older = (key_id for key_id, _ in settings.encryption_keys)
        also = f"; {', '.join(older)} still decrypt" if older else ""
        yield Check("encryption keys", "ok", f"the master key {name} encrypts{also}")
    elif settings.database_url is None:
        yield Check("encryption keys", "info", "an embedded home makes one for itself")
    else:
        advice = "set LLMTEAM_ENCRYPTION_KEYS to id:KEY, KEY being the output of: openssl rand -base64 32"
        yield Check("encryption keys", "info", "none: steps cannot seal anything", advice)


def _notifications(settings: Settings) -> Iterator[Check]:
    from llmteam.human.notifications.configured import channels_of_settings

    channels = channels_of_settings(settings)
    if not channels:
        advice = "set LLMTEAM_SMTP_URL or an LLMTEAM_NOTIFY_…_URL; until then people look into the inbox"
        yield Check("notifications", "info", "nobody is told of requests", advice)
        return
    yield Check("notifications", "ok", f"people are told through {', '.join(channels)}")
    if settings.public_url is None:
        yield Check("notifications", "info", "they carry no links", "set LLMTEAM_PUBLIC_URL to where the inbox is")
    if "webhook" in channels and settings.notify_webhook_key is None:
        found = "what the webhook receives is not signed, so that anybody could send it"
        yield Check("notifications", "warning", found, "set LLMTEAM_NOTIFY_WEBHOOK_KEY")


def _mail(settings: Settings) -> Iterator[Check]:
    if settings.smtp_url is None:
        return
    from llmteam.net import MailClient, MailServer

    server = MailServer.parse(settings.smtp_url)
    MailClient(server, timeout=_MAIL_SECONDS).check()
    yield Check("mail server", "ok", f"{server.where}, as {server.sender}")


def _dead_notifications(place: Installation) -> Iterator[Check]:
    from llmteam.canvas.phrases import count as counted
    from llmteam.human.postgres.deliveries import PostgresDeliveries

    database = place.database("llmteam-doctor")
    try:
        dead = PostgresDeliveries(database).given_up()
    finally:
        database.close()
    if dead:
        found = f"{counted(dead, 'notification')} given up"
        advice = "llmteam notifications list, then llmteam notifications retry"
        yield Check("dead notifications", "warning", found, advice)


def _data_keys(place: Installation) -> Iterator[Check]:
    from llmteam.keys import PostgresKeyStore

    database = place.database("llmteam-doctor")
    try:
        uses = PostgresKeyStore(database).uses()
    finally:
        database.close()
    configured = {key_id for key_id, _ in place.settings.encryption_keys}
    missing = [use.master_id for use in uses if use.master_id not in configured]
    total = sum(use.keys for use in uses)
    if missing:
        found = f"{', '.join(missing)} encrypts data keys and is not set: what was sealed with these cannot be read"
        yield Check("data keys", "failed", found, "add it to LLMTEAM_ENCRYPTION_KEYS, then llmteam keys rewrap")
    elif uses:
        yield Check("data keys", "ok", f"{total}, encrypted by {', '.join(use.master_id for use in uses)}")
