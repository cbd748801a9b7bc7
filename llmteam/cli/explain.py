"""``llmteam explain``: why a run is where it is, and whether any row breaks the engine's rules."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from llmteam.canvas.phrases import count
from llmteam.cli import codes
from llmteam.cli.options import json_option, load_settings, tenant_option
from llmteam.cli.render import coloured, print_json, table
from llmteam.cli.servers import Installation, installation
from llmteam.errors import InfrastructureError
from llmteam.telemetry import printable

if TYPE_CHECKING:
    from llmteam.canvas.explain import FleetView, RunExplained, StepsExplained
    from llmteam.canvas.explain_limits import Delay
    from llmteam.canvas.postgres.checks import Findings, PostgresChecks
    from llmteam.canvas.records import RunStore, StepRecord
    from llmteam.canvas.runs import Runs
    from llmteam.canvas.state import Key
    from llmteam.human.rulings import Case
    from llmteam.settings import Settings

#: Requests whose votes are read.
_WHOLE = 20


@click.command(short_help="Say why a run is where it is.")
@click.argument("run_id", metavar="[RUN]", required=False)
@tenant_option
@click.option("--check", is_flag=True, help="Instead of a run: look at all rows of all tenants for broken rules.")
@json_option
def explain(run_id: str | None, tenant: str, check: bool, as_json: bool) -> None:
    """Say what each unfinished step of RUN waits for, since when, until when, and what happens then.

    With --check, look in the whole database for rows that nothing would ever move again, or that disagree with each
    other; exit code 1 when there are any.
    """
    if check == (run_id is not None):
        raise click.UsageError("give a RUN, or --check for all of them")
    with installation(load_settings()) as place:
        if run_id is not None:
            explained = _explained(place, tenant, run_id)
            print_json(_document(explained)) if as_json else _print(explained)
            return
        findings = _check(place)
    print_json(_findings_document(findings)) if as_json else _print_findings(findings)
    sys.exit(codes.FAILED if findings.counts else codes.DONE)


# -- one run


def _explained(place: Installation, tenant: str, run_id: str) -> RunExplained:
    from llmteam.canvas.explain import Picture, explain
    from llmteam.canvas.graph import compile_graph
    from llmteam.canvas.records import RunOptions

    runs = place.runs()
    try:
        record = runs.record(tenant, run_id)
        store = runs.engine.store
        header = store.header(tenant, run_id)
        pinned = store.definition(tenant, record.definition_hash)
        steps = store.steps(tenant, run_id, outputs=False)
        cases = _cases(store, tenant, run_id, steps)
        delays = _delays(runs, tenant, run_id, steps)
    finally:
        runs.close()
    now, swept = _clock(place)
    picture = Picture(
        record=record,
        steps=steps,
        graph=compile_graph(pinned.definition, pinned.facts.get),
        now=now,
        options=RunOptions() if header is None else header.options,
        fleet=_fleet(place.settings, steps, swept),
        cases=cases,
        delays=delays,
    )
    return explain(picture)


def _cases(store: RunStore, tenant: str, run_id: str, steps: Iterable[StepRecord]) -> dict[Key, Case]:
    """What steps that wait ask people; votes only of the first ones, since they are told one by one."""
    from llmteam.canvas.state import StepState
    from llmteam.human.rulings import Case

    waiting = {step.row.key for step in steps if step.row.state is StepState.WAITING}
    asked = [one for one in store.interactions.of_run(tenant, run_id) if one.parked] if waiting else []
    found = {(one.step_name, one.visit): Case(one) for one in asked if (one.step_name, one.visit) in waiting}
    for key, case in list(found.items())[:_WHOLE]:
        found[key] = store.interactions.case(tenant, case.request.request_id) or case
    return found


def _delays(runs: Runs, tenant: str, run_id: str, steps: Iterable[StepRecord]) -> dict[Key, Delay]:
    """What steps that wait for a limit were told; nothing is read when none does."""
    from llmteam.canvas.explain_limits import Delay
    from llmteam.events.models import EventQuery, EventType

    keys = {step.row.key for step in steps if step.row.owner == "limit"}
    if not keys:
        return {}
    query = EventQuery(tenant_id=tenant, run_id=run_id, event_types=frozenset({EventType.STEP_DELAYED}))
    found = {}
    for event in runs.events.select(query):
        told = event.payload
        delay = Delay(str(told["limit"]), str(told["limited_by"]), int(told["position"]), event.timestamp)
        found[event.step_id or "", event.visit or 1] = delay
    return {key: delay for key, delay in found.items() if key in keys}


def _clock(place: Installation) -> tuple[datetime, dict[str, datetime]]:
    database = place.database("llmteam-explain")
    try:
        return _checks(place.settings, database).clock()
    finally:
        database.close()


def _fleet(settings: Settings, steps: Iterable[StepRecord], swept: dict[str, datetime]) -> FleetView:
    """What is known of queues; the broker is asked only when a step waits for one, and may be away."""
    from llmteam.canvas.explain import FleetView
    from llmteam.canvas.explain_picture import queue_of
    from llmteam.canvas.state import StepState
    from llmteam.cli.fleet_view import consumers, depths

    silent = FleetView(swept=swept, sweep_seconds=settings.sweep_seconds, hint_depth=settings.hint_depth)
    if not any(step.row.state is StepState.READY for step in steps):
        return silent
    try:
        lying = depths(settings, {queue_of(step) for step in steps})
        workers = Counter(queue for queues in consumers(settings).values() for queue in set(queues))
    except InfrastructureError as exc:
        return replace(silent, fault=str(exc))
    return replace(silent, workers=workers, depths=lying)


def _print(explained: RunExplained) -> None:
    from llmteam.canvas.explain import name_of
    from llmteam.canvas.phrases import listed

    record = explained.record
    where = printable(f" of {record.segment_id}, tenant {record.tenant_id}: ")
    click.echo(click.style(f"run {record.run_id}", bold=True) + where + coloured(record.status.value))
    _say(explained.says)
    for group in explained.steps:
        names = listed([name_of(key) for key in group.steps])
        many = f" ({count(len(group.steps), 'step')})" if len(group.steps) > 1 else ""
        click.echo(f"\n{click.style(printable(names), bold=True)}{many}: {coloured(group.state.value)}")
        _say(group.says)


def _say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(f"  {printable(sentence)}")


def _document(explained: RunExplained) -> dict[str, Any]:
    record = explained.record
    return {
        "run_id": record.run_id,
        "tenant_id": record.tenant_id,
        "segment_id": record.segment_id,
        "status": record.status.value,
        "now": explained.now.isoformat(),
        "deadline": _iso(record.deadline),
        "paused_at": _iso(record.paused_at),
        "snapshot_id": record.snapshot_id,
        "says": list(explained.says),
        "steps": [_group_document(group) for group in explained.steps],
    }


def _group_document(group: StepsExplained) -> dict[str, Any]:
    return {
        "steps": [_key_document(key) for key in group.steps],
        "state": group.state.value,
        "waits_for": group.owner,
        "queue": group.queue,
        "since": _iso(group.since),
        "until": _iso(group.until),
        "requests": list(group.requests),
        "says": list(group.says),
    }


def _key_document(key: Key) -> dict[str, Any]:
    return {"step_id": key[0], "visit": key[1]}


def _iso(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()


# -- all runs


def _checks(settings: Settings, database: Any) -> PostgresChecks:
    from llmteam.canvas.execution import MAX_RETRY_AFTER
    from llmteam.canvas.postgres.checks import PostgresChecks

    return PostgresChecks(database, lease=timedelta(seconds=settings.lease_seconds), retry=MAX_RETRY_AFTER)


def _check(place: Installation) -> Findings:
    database = place.database("llmteam-explain")
    try:
        return _checks(place.settings, database).check()
    finally:
        database.close()


def _findings_document(findings: Findings) -> dict[str, Any]:
    from llmteam.canvas.postgres.checks import RULES

    return {
        "runs": findings.runs,
        "steps": findings.steps,
        "broken": sum(findings.counts.values()),
        "rules": [{"rule": rule.name, "says": rule.says, "broken": findings.counts[rule.name]} for rule in RULES],
        "rows": [
            {
                "tenant_id": row.tenant_id,
                "run_id": row.run_id,
                "step_id": row.step_id,
                "visit": row.visit,
                "rule": row.rule,
            }
            for row in findings.rows
        ],
    }


def _print_findings(findings: Findings) -> None:
    from llmteam.canvas.postgres.checks import RULES

    looked = f"{count(findings.runs, 'run')} and {count(findings.steps, 'step')} looked at"
    if not findings.counts:
        click.echo(f"{looked}: every rule holds")
        return
    rows = [[row.tenant_id, row.run_id, _step_cell(row.step_id, row.visit), row.rule] for row in findings.rows]
    table(["TENANT", "RUN", "STEP", "RULE"], rows, "")
    broken = sum(findings.counts.values())
    if broken > len(rows):
        click.echo(f"and {broken - len(rows):,} more")
    click.echo()
    for rule in RULES:
        if number := findings.counts[rule.name]:
            click.echo(f"{rule.name} ({number:,}): {rule.says}")
    click.echo(f"{looked}: {click.style(count(broken, 'finding'), fg='red')}")


def _step_cell(step_id: str | None, visit: int | None) -> str:
    if step_id is None:
        return ""
    return step_id if visit in (None, 1) else f"{step_id}#{visit}"
