"""``llmteam mining``: runs as an XES event log, and a report of what they tell."""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from llmteam.canvas.phrases import count
from llmteam.cli import codes
from llmteam.cli.options import json_option, load_settings, tenant_option
from llmteam.cli.render import duration, pairs, print_json, say, table, warn
from llmteam.cli.servers import installation
from llmteam.ids import utc_now

if TYPE_CHECKING:
    from llmteam.db import Database
    from llmteam.mining.records import Selection, StoredRun
    from llmteam.mining.replay import Net
    from llmteam.mining.report import Report, SegmentReport

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OUTPUT = click.Path(dir_okay=False, writable=True, path_type=Path)
#: Variants, deviating runs and activities that are listed; JSON has more of them.
_SHOWN = 10
#: Runs between two signs of life on a terminal.
_STRIDE = 500


@click.group()
def mining() -> None:
    """Process mining: export runs as an event log, and report what they tell."""


def _selection_options(command: _Command) -> _Command:
    command = tenant_option(command)
    command = click.option("--segment", metavar="ID", help="Runs of this segment only.")(command)
    command = click.option("--until", type=click.DateTime(), help="Runs started before this UTC time.")(command)
    return click.option("--since", type=click.DateTime(), help="Runs started at this UTC time or later.")(command)


@mining.command()
@_selection_options
@click.option(
    "--output", "-o", type=_OUTPUT, help="File to write, compressed if it ends in .gz; standard output if none."
)
def export(
    since: datetime | None, until: datetime | None, segment: str | None, tenant: str, output: Path | None
) -> None:
    """Write runs as XES 1.0, for ProM, Celonis, Disco and pm4py.

    A run is a trace, a step an activity. The log is written as it is read, whatever its size; a file appears when it is
    whole. Inputs, outputs and error messages are not in it.
    """
    from llmteam.mining.traces import case_of
    from llmteam.mining.xes import xes_parts

    selection = _selection(tenant, segment, since, until)
    about = {"tenant": tenant, "segment": segment, "since": selection.since, "until": selection.until}
    with _database(tenant) as database, _destination(output) as stream:
        runs = _counted(_runs(database, selection))
        stream.writelines(xes_parts(map(case_of, runs), name=segment or tenant, attributes=about))


@mining.command()
@_selection_options
@click.option("--html", type=_OUTPUT, help="Write the report as one page with pictures, too.")
@json_option
def report(
    since: datetime | None,
    until: datetime | None,
    segment: str | None,
    tenant: str,
    html: Path | None,
    as_json: bool,
) -> None:
    """Tell where the time of runs went, which ways they took, and whether they did what their definition allows.

    Each run is replayed on its own definition; exit code 1 when one deviates from it.
    """
    from llmteam.mining.report import Report

    found = Report()
    with _database(tenant) as database:
        nets = _Nets(database, tenant)
        for run in _counted(_runs(database, _selection(tenant, segment, since, until))):
            found.add(run, nets.of(run))
    if html is not None:
        from llmteam.mining.page import page

        with _destination(html) as stream:
            stream.write(page(found, tenant=tenant, made_at=utc_now()))
    print_json({"tenant_id": tenant, **found.document()}) if as_json else _print(found)
    sys.exit(codes.FAILED if found.deviating else codes.DONE)


def _selection(tenant: str, segment: str | None, since: datetime | None, until: datetime | None) -> Selection:
    from llmteam.mining.records import Selection

    start, end = (None if one is None else one.replace(tzinfo=UTC) for one in (since, until))
    if start is not None and end is not None and end < start:
        raise click.UsageError("the period ends before it begins: --since must not be later than --until")
    return Selection(tenant, segment, start, end)


@contextmanager
def _database(tenant: str) -> Iterator[Database]:
    """The database, for a tenant that has the feature."""
    from llmteam.licensing import TenantLicenses
    from llmteam.licensing.postgres import PostgresLicenseStore
    from llmteam.tenancy.postgres import PostgresTenantStore

    with installation(load_settings()) as place:
        database = place.database("llmteam-mining")
        try:
            licences = TenantLicenses(PostgresLicenseStore(database), tenants=PostgresTenantStore(database))
            asyncio.run(licences.require_feature(tenant, "process_mining"))
            yield database
        finally:
            database.close()


def _runs(database: Database, selection: Selection) -> Iterable[StoredRun]:
    from llmteam.mining.postgres import PostgresRunReader

    return PostgresRunReader(database).runs(selection)


def _counted(runs: Iterable[StoredRun]) -> Iterator[StoredRun]:
    """``runs``, with a line for the person at a terminal that says how many there were."""
    shows, number = sys.stderr.isatty(), 0
    for number, run in enumerate(runs, 1):
        if shows and number % _STRIDE == 0:
            click.echo(f"\r{count(number, 'run')}", err=True, nl=False)
        yield run
    if shows:
        click.echo(f"\r{count(number, 'run')}", err=True)


@contextmanager
def _destination(path: Path | None) -> Iterator[TextIO]:
    """The file, which appears whole or not at all; standard output when none is named."""
    if path is None:
        with click.open_file("-", "w", encoding="utf-8") as stream:
            yield cast("TextIO", stream)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        if path.name.endswith(".gz"):
            with gzip.open(part, "wt", encoding="utf-8", newline="\n") as packed:
                yield packed
        else:
            with part.open("w", encoding="utf-8", newline="\n") as plain:
                yield plain
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class _Nets:
    """The nets of definitions by their digest, each compiled once."""

    def __init__(self, database: Database, tenant: str) -> None:
        from llmteam.canvas.postgres import PostgresRunStore

        self._store = PostgresRunStore(database)
        self._tenant = tenant
        self._known: dict[str, Net | None] = {}

    def of(self, run: StoredRun) -> Net | None:
        """The net of the run's own definition; None when that is not there any more."""
        digest = run.definition_hash
        if digest not in self._known:
            self._known[digest] = self._compiled(digest)
        return self._known[digest]

    def _compiled(self, digest: str) -> Net | None:
        from llmteam.canvas.exceptions import UnknownSegmentError
        from llmteam.canvas.graph import compile_graph
        from llmteam.canvas.nets import net_of

        try:
            pinned = self._store.definition(self._tenant, digest)
        except UnknownSegmentError:
            return None
        return net_of(compile_graph(pinned.definition, pinned.facts.get))


def _print(found: Report) -> None:
    if not found.segments:
        say("no run was started in this period")
    for number, segment in enumerate(found.ordered()):
        if number:
            click.echo()
        _print_segment(segment)


def _print_segment(segment: SegmentReport) -> None:
    from llmteam.mining.page import mean_text, way_text
    from llmteam.mining.waits import Cause

    metrics = segment.measures.metrics()
    took = (metrics.min_duration, metrics.max_duration, metrics.avg_duration)
    least, most, mean = (duration(one.total_seconds()) for one in took)
    pairs(
        {
            "segment": segment.segment_id,
            "runs": ", ".join(f"{many:,} {status}" for status, many in sorted(segment.statuses.items())),
            "duration": f"{least} to {most}, {mean} on average",
            "per hour": f"{metrics.cases_per_hour:,.1f} runs",
            "errors": f"{metrics.error_rate:.1%} of events; {metrics.retry_rate:.1%} are retries",
            **{cause.value: _share(segment, cause) for cause in Cause},
        }
    )
    rows = [
        [activity, cause.value, duration(seconds), cause.says]
        for activity, cause, seconds in segment.waits.slowest()[:_SHOWN]
    ]
    _section(["BOTTLENECK", "CAUSE", "TOGETHER", "WHAT"], rows)
    ways = segment.common()[:_SHOWN]
    _section(
        ["RUNS", "ENDED", "ON AVERAGE", "WAY"],
        [[f"{one.runs:,}", one.status, mean_text(one.seconds), way_text(one)] for one in ways],
    )
    _print_conformance(segment)


def _share(segment: SegmentReport, cause: Any) -> str | None:
    seconds = segment.waits.by_cause()
    every = sum(seconds.values())
    return f"{duration(seconds[cause])}, {seconds[cause] / every:.1%}: {cause.says}" if seconds[cause] else None


def _section(headings: list[str], rows: Sequence[Sequence[object]]) -> None:
    if rows:
        click.echo()
        table(headings, rows, "")


def _print_conformance(segment: SegmentReport) -> None:
    found = segment.conformance
    click.echo()
    if found.unknown:
        warn(f"{count(found.unknown, 'run')} of {segment.segment_id} not checked: their definition is not there")
    if not found.checked:
        return
    click.echo(
        f"{found.fitting:,} of {count(found.checked, 'run')} did what their definition allows; "
        f"fitness {found.fitness.value:.4f}"
    )
    rows = [
        [one.run_id, f"{one.fitness:.3f}", each.seq, each.step_id, each.what]
        for one in found.deviating[:_SHOWN]
        for each in one.deviations
    ]
    _section(["RUN", "FITNESS", "EVENT", "STEP", "WHAT DEVIATES"], rows)
