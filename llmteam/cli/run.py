"""``llmteam run``: from a document to its outputs, with servers and workers of its own where there are none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmteam.cli import codes, documents
from llmteam.cli.inbox_place import as_option
from llmteam.cli.options import import_modules, imports_option, json_option, load_settings, tenant_option
from llmteam.cli.render import coloured, duration, json_text, print_json, say, warn
from llmteam.cli.servers import Installation, installation, is_embedded
from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.regions import queue_in
from llmteam.settings import Settings
from llmteam.telemetry import printable

if TYPE_CHECKING:
    from llmteam.canvas.models import SegmentDefinition
    from llmteam.canvas.results import SegmentResult
    from llmteam.canvas.runs import IfClosed, IfOpen, Runs
    from llmteam.cli.own_workers import OwnWorkers
    from llmteam.cli.progress import Progress
    from llmteam.examples import Example


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    source: str | None
    example: str | None
    input: str | None
    tenant: str
    run_id: str | None
    watch: bool
    timeout: float | None
    as_json: bool
    key: str | None
    rules: tuple[IfOpen, IfClosed]
    started_by: str = ""
    snapshot_interval: int = 0


@click.command(short_help="Run a segment and print its outputs.")
@click.argument("source", metavar="SEGMENT", required=False)
@click.option("--example", metavar="NAME", help="Run a segment that ships with llmteam: ticket-triage.")
@click.option("--input", "input_text", metavar="JSON|@FILE|-", help="The run's input; without it, null.")
@tenant_option
@click.option("--run-id", metavar="ID", help="The run's id; a new one by default. One id, and one --key, is one run.")
@click.option("--key", metavar="KEY", help="An idempotency key: starting again with it gives the run that has it.")
@click.option(
    "--if-open",
    type=click.Choice(["return", "fail", "restart"]),
    default="return",
    show_default=True,
    help="What to do about a run of the same id or key that is not over; restart cancels it.",
)
@click.option(
    "--if-closed",
    type=click.Choice(["return", "fail", "restart", "restart_failed"]),
    default="return",
    show_default=True,
    help="What to do about one that is over.",
)
@as_option(required=False, help="Who starts it. With four eyes they are not asked in it.")
@click.option("--watch/--no-watch", default=None, help="Show steps as they move; the default on a terminal.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="End the run after.")
@click.option("--snapshot-interval", type=click.IntRange(min=0), default=0, metavar="N", help="Snapshots each N steps.")
@imports_option
@json_option
def run(
    source: str | None,
    example: str | None,
    input_text: str | None,
    tenant: str,
    run_id: str | None,
    key: str | None,
    if_open: IfOpen,
    if_closed: IfClosed,
    person: str | None,
    watch: bool | None,
    timeout: float | None,
    snapshot_interval: int,
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run SEGMENT: a JSON file, - for standard input, or the ID[@VERSION] of a published one.

    Waits for the end and prints the outputs. Without LLMTEAM_DATABASE_URL and LLMTEAM_BROKER_URL it starts embedded
    servers, and workers unless `llmteam up` runs; with them, workers elsewhere do the work.
    """
    if (source is None) == (example is None):
        raise click.UsageError("name one segment: a file, the id of a published one, or --example NAME")
    if source == input_text == "-":
        raise click.UsageError("segment and input cannot both come from standard input")
    watched = (sys.stderr.isatty() and not as_json) if watch is None else watch
    rules, by = (if_open, if_closed), person or ""
    how = (watched, timeout, as_json, key, rules, by, snapshot_interval)
    request = Request(source, example, input_text, tenant, run_id, *how)
    settings = load_settings(imports)
    with contextlib.ExitStack() as stack:
        code = _Command(request, settings, stack).execute()
    sys.exit(code)


class _Command:
    """One execution of ``run``. ``stack`` ends what was begun, in the reverse order."""

    def __init__(self, request: Request, settings: Settings, stack: contextlib.ExitStack) -> None:
        self._request = request
        self._stack = stack
        self._example = _find_example(request.example)
        self._extra: dict[str, str] = {}
        self._settings = settings
        if self._example is not None:
            self._settings = _for_example(settings, self._example)
        self._moved = self._settings.home != settings.home
        self._workers: OwnWorkers | None = None

    def execute(self) -> int:
        document = self._read()
        self._warm()
        import_modules(self._known_here())
        definition = self._checked(document)
        value = documents.read_input(self._request.input)
        if self._example is not None and self._request.input is None:
            value = self._example.input
        with self._progress(definition) as progress:
            runs, run_id, interrupted = self._on_servers(definition, value, progress)
        if interrupted is not None:
            return self._interrupted(runs, run_id, interrupted)
        return self._report(runs, runs.result(self._request.tenant, run_id, events=False))

    def _known_here(self) -> Settings:
        """An example's modules register resources, which only workers have."""
        if self._example is None:
            return self._settings
        mine = tuple(name for name in self._settings.imports if name not in self._example.imports)
        return replace(self._settings, imports=mine)

    def _read(self) -> Any:
        source = self._request.source
        if source is None or not documents.is_file(source):
            return None
        return documents.read_document(source)

    def _warm(self) -> None:
        if is_embedded(self._settings) or self._example is not None:
            from llmteam.cli.own_workers import OwnWorkers

            alone = self._example is not None
            self._workers = OwnWorkers(
                self._settings.home, self._settings.imports, alone=alone, region=self._settings.region
            )
            self._stack.callback(self._workers.stop)
            self._workers.warm()

    def _checked(self, document: Any) -> SegmentDefinition | None:
        """The definition of a document or example; nothing for a published one, which is in the database."""
        if self._example is not None:
            return self._example.segment()
        if document is None:
            return None
        from llmteam.canvas.exceptions import SegmentValidationError
        from llmteam.canvas.models import SegmentDefinition
        from llmteam.canvas.validation import validate_segment_dict

        result = validate_segment_dict(document)
        name = self._request.source or "segment"
        if not result.is_valid:
            documents.report_problems(result, name, err=True)
            raise click.exceptions.Exit(codes.USAGE)
        for message in result.warnings:
            warn(printable(str(message)))
        definition, _ = SegmentDefinition.read(document)
        if definition is None:
            raise SegmentValidationError(f"{name} cannot be read")
        return definition

    def _progress(self, definition: SegmentDefinition | None) -> Progress:
        from llmteam.cli.progress import progress_for

        total = 0 if definition is None else len(definition.steps)
        return progress_for(self._request.watch, terminal=sys.stderr.isatty(), total=total)

    def _on_servers(
        self, definition: SegmentDefinition | None, value: Any, progress: Progress
    ) -> tuple[Runs, str, signal.Signals | None]:
        """Start the run and see it to its end; the signal that came before that, if one did."""
        from llmteam.cli.fleet_view import check_broker

        if self._example is not None:
            self._extra = self._stack.enter_context(self._example.environment())
        if is_embedded(self._settings):
            progress.note(f"embedded Postgres and Valkey in {_shown(self._settings.home)}")
        place = self._stack.enter_context(installation(self._settings))
        # The workers end before the servers do, although they began first.
        if self._workers is not None:
            self._stack.callback(self._workers.stop)
            self._workers.release(place.orders(**self._extra))
        if self._settings.broker_url is not None:
            # A run whose hints cannot be sent would be half-started.
            check_broker(place.settings)
        runs = place.runs()
        self._stack.callback(runs.close)
        definition = definition or runs.resolve(self._request.tenant, str(self._request.source))
        self._staff(runs, definition, place)
        run_id = self._start(runs, definition, value)
        progress.note(f"run {run_id} waits for its worker" if self._workers else f"run {run_id}")
        if not place.embedded:
            region = runs.record(self._request.tenant, run_id).region
            queues = {queue_in(fact.queue, region) for fact in runs.pin(definition).facts.values()}
            threading.Thread(target=_warn_if_unserved, args=(place.settings, queues), daemon=True).start()
        return runs, run_id, self._wait(runs, run_id, progress, self._people(place, run_id))

    def _staff(self, runs: Runs, definition: SegmentDefinition, place: Installation) -> None:
        if self._workers is None:
            return
        from llmteam.canvas.step_types import BUILTIN_TYPES
        from llmteam.cli.own_workers import programs_for

        if self._example is not None and not place.embedded:
            _refuse_company(place)
        builtin = {metadata.type_id for metadata, _ in BUILTIN_TYPES}
        facts = runs.pin(definition).facts
        self._workers.serve(programs_for(fact.queue for fact in facts.values()), set(facts) - builtin)

    def _start(self, runs: Runs, definition: SegmentDefinition, value: Any) -> str:
        from llmteam.canvas.results import RunConfig
        from llmteam.canvas.runs import Start, StartRules, runtime_ref
        from llmteam.ids import check_identifier, new_id

        tenant = check_identifier("tenant", self._request.tenant)
        run_id = self._request.run_id or new_id()
        config = None
        timeout, person, each = self._request.timeout, self._request.started_by, self._request.snapshot_interval
        if timeout is not None or person or each:
            retries = definition.params.max_retries
            config = RunConfig(timeout, retries, started_by=person, snapshot_interval=each)
        context, rules = runtime_ref(tenant, run_id), StartRules(*self._request.rules)
        key = self._request.key
        return runs.start(Start(tenant, definition, value, config, run_id, "", context, key, rules))

    def _people(self, place: Installation, run_id: str) -> Coroutine[Any, Any, None] | None:
        """Those whom an example asks."""
        if self._example is None:
            return None
        from llmteam.human.fleet import connect

        manager = connect(place.settings, tenant_id=self._request.tenant)
        self._stack.callback(manager.close)
        return self._example.people(manager, run_id)

    def _wait(
        self, runs: Runs, run_id: str, progress: Progress, people: Coroutine[Any, Any, None] | None
    ) -> signal.Signals | None:
        from llmteam.cli.follow import follow

        tenant = self._request.tenant
        tick = self._workers.tick if self._workers is not None else _nothing
        try:
            return asyncio.run(follow(runs, tenant, run_id, progress, tick, people))
        except LLMTeamError:
            if self._workers is not None and self._workers.any:
                runs.cancel(tenant, run_id)
            raise

    def _interrupted(self, runs: Runs, run_id: str, number: signal.Signals) -> int:
        look = self._hint("show", run_id)
        if self._workers is not None and self._workers.any:
            runs.cancel(self._request.tenant, run_id)
            say(f"run {run_id} is cancelled: its workers belong to this command and end with it; see: {look}")
        else:
            say(f"run {run_id} goes on without this command; see: {look}; end it: {self._hint('cancel', run_id)}")
        return codes.code_of_signal(number)

    def _hint(self, command: str, run_id: str) -> str:
        tenant = "" if self._request.tenant == "default" else f" --tenant {self._request.tenant}"
        home = f"LLMTEAM_HOME={_shown(self._settings.home)} " if self._moved else ""
        return f"{home}llmteam runs {command} {run_id}{tenant}"

    def _report(self, runs: Runs, result: SegmentResult) -> int:
        from llmteam.canvas.state import SegmentStatus

        code = codes.DONE if result.status is SegmentStatus.COMPLETED else codes.FAILED
        if self._request.as_json:
            print_json(result.to_dict())
        else:
            self._print(runs, result)
        if self._example is not None and code == codes.DONE:
            say(self._example.check(self._extra, result))
        return code

    def _print(self, runs: Runs, result: SegmentResult) -> None:
        from llmteam.canvas.state import StepState

        took = duration(result.duration_ms / 1000)
        steps = f"{result.steps_completed} of {result.steps_total} steps"
        click.echo(f"{coloured(result.status.value)} {result.segment_id} in {took}, {steps}")
        if result.error is not None:
            click.echo(printable(f"{result.error.error_type}: {result.error.error_message}"))
            for step in runs.engine.store.steps(self._request.tenant, result.run_id):
                if step.row.state is StepState.FAILED and step.row.error is not None:
                    error = f"{step.row.error.error_type}: {step.row.error.error_message}"
                    click.echo(printable(f"  {step.row.step_id}: {error}"))
        else:
            click.echo(json_text(result.outputs))
        click.echo(f"run {result.run_id}")
        click.echo(f"look again: {self._hint('show', result.run_id)}")


def _nothing() -> None:
    """No workers of our own to look after."""


def _find_example(name: str | None) -> Example | None:
    if name is None:
        return None
    from llmteam.examples import EXAMPLES

    if name not in EXAMPLES:
        raise click.UsageError(f"there is no example {name!r}; there are: {', '.join(sorted(EXAMPLES))}")
    return EXAMPLES[name]


def _for_example(settings: Settings, example: Example) -> Settings:
    """An example needs workers that know its services; where others serve the home it gets a home of its own."""
    from llmteam.cli.roster import members

    settings = replace(settings, imports=tuple(dict.fromkeys((*settings.imports, *example.imports))))
    if is_embedded(settings) and any(member.programs for member in members(settings.home)):
        return replace(settings, home=settings.home / "examples")
    return settings


def _refuse_company(place: Installation) -> None:
    """On servers of the user's own, workers that are there would take an example's steps and not know its services."""
    from llmteam.cli.fleet_view import consumers

    others = consumers(place.settings)
    if others:
        raise ConfigurationError(
            f"{len(others)} workers consume this broker and do not know the example's services: unset "
            "LLMTEAM_DATABASE_URL and LLMTEAM_BROKER_URL to run it on embedded servers, or stop them"
        )


def _warn_if_unserved(settings: Settings, queues: set[str]) -> None:
    """Workers have a second to answer; the run does not wait for them."""
    from llmteam.cli.fleet_view import consumers

    with contextlib.suppress(LLMTeamError):
        served = {queue for consumed in consumers(settings).values() for queue in consumed}
        if missing := sorted(queues - served):
            warn(f"no worker consumes {', '.join(missing)}: the run waits until one starts: llmteam worker")


def _shown(path: Path) -> str:
    """A path as short as it can be from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
