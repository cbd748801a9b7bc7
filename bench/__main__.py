"""``python -m bench``: one table of llmteam beside raw Celery, on servers that it starts and removes itself."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from bench import capacity, limiter, report, scale, trust
from bench.ours import Llmteam
from bench.raw import RawCelery, make_app
from bench.servers import Site, Worker, connections_for, site, workers
from bench.workloads import FULL, QUICK, Figures, Side, Size, Workload, chain, fan, interleaved, waits
from llmteam.errors import LLMTeamError

Rounds = Mapping[str, Mapping[str, Sequence[Figures]]]
_ALL = ("chain", "fan", "waits")
_MORE = (*scale.MEASURES, *trust.MEASURES, *limiter.MEASURES, *capacity.MEASURES)
_WORKLOADS: Mapping[str, tuple[Workload, ...]] = {"steps": (chain, fan), "waits": (waits,)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One small round: shows that everything works, measures nothing.")
@click.option("--rounds", type=click.IntRange(1), help="Interleaved rounds of each workload (5).")
@click.option("--only", type=click.Choice([*_ALL, *_MORE]), multiple=True, help="Only this workload.")
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
@click.option("--raw-without-acks", is_flag=True, help="Raw Celery does not acknowledge messages either.")
def main(quick: bool, rounds: int | None, only: tuple[str, ...], target: Path | None, raw_without_acks: bool) -> None:
    """Measure llmteam beside raw Celery: same servers, pool, concurrency and settings.

    Raw Celery runs a chain and a chord of no-op tasks with results, and tasks that sleep; llmteam runs segments of
    no-op steps, of which each commits to Postgres. Then what happens at size: a worker that is killed, a join of
    10,000 branches, steps among 100,000 waiting runs, an event log of a million events. Then what trust costs (audit
    chains, row security), what limits cost, and what runs cost one Postgres: bytes, log, transactions, processors.
    """
    size = QUICK if quick else FULL
    if rounds is not None:
        size = replace(size, rounds=rounds)
    signal.signal(signal.SIGTERM, _leave)
    console, progress = Console(width=None if sys.stdout.isatty() else 150), Console(stderr=True)
    wanted = only or (*_ALL, *_MORE)
    try:
        with site() as place:
            console.print(_setting(place))
            measured = _measured(place, size, wanted, progress, acks=not raw_without_acks)
            rows = [row for row in size.rows() if any(row.name in sides["llmteam"][0] for sides in measured.values())]
            raw, ours = (_merged(measured, name) for name in (RawCelery.name, Llmteam.name))
            _check_asked()
            found = report.lines(rows, raw, ours)
            if found:
                report.show(console, found, size)
            findings = _at_size(place, wanted, progress, quick=quick)
            if findings:
                report.show_findings(console, findings)
            if target is not None:
                document = report.document(place, size, found, measured, not raw_without_acks, findings)
                target.write_text(json.dumps(document, indent=2) + "\n")
    except LLMTeamError as exc:
        raise click.ClickException(str(exc)) from None


def _at_size(place: Site, wanted: Sequence[str], progress: Console, *, quick: bool) -> list[scale.Finding]:
    size, amount = (scale.QUICK, trust.QUICK) if quick else (scale.FULL, trust.FULL)
    measures: dict[str, Callable[[], list[scale.Finding]]] = {
        **{name: partial(measure, place, size) for name, measure in scale.MEASURES.items()},
        **{name: partial(measure, place, amount) for name, measure in trust.MEASURES.items()},
        **{name: partial(measure, place, size) for name, measure in limiter.MEASURES.items()},
        **{name: partial(measure, place, size) for name, measure in capacity.MEASURES.items()},
    }
    found: list[scale.Finding] = []
    for name, measure in measures.items():
        if name in wanted:
            _check_asked()
            with progress.status(name):
                found += measure()
    return found


def _measured(place: Site, size: Size, wanted: Sequence[str], progress: Console, *, acks: bool) -> Rounds:
    found: dict[str, Mapping[str, Sequence[Figures]]] = {}
    for kind, concurrency in (("steps", size.concurrency), ("waits", size.waits)):
        chosen = [workload for workload in _WORKLOADS[kind] if workload.__name__ in wanted]
        if chosen:
            found |= _with_workers(place, concurrency, chosen, size, progress, acks=acks)
    return found


def _with_workers(
    place: Site, concurrency: int, chosen: Sequence[Workload], size: Size, progress: Console, *, acks: bool
) -> Rounds:
    with (
        closing(RawCelery(make_app(place.raw_broker, connections=connections_for(concurrency), acks=acks))) as raw,
        closing(Llmteam(place.settings)) as ours,
        workers(place, concurrency, acks=acks) as running,
        progress.status("starting") as status,
    ):
        try:
            _warm(running, (raw, ours), chosen, size)

            def moved(what: str) -> None:
                _check_asked()
                status.update(what)

            return {workload.__name__: interleaved((raw, ours), workload, size, moved) for workload in chosen}
        except Exception:
            for worker in running:
                progress.print(worker.last_words(), markup=False, highlight=False)
            raise


def _warm(running: Sequence[Worker], sides: Sequence[Side], chosen: Sequence[Workload], size: Size) -> None:
    """Everything once, uncounted: threads, connections, prepared statements, imports."""
    for worker, side in zip(running, sides, strict=True):
        worker.check()
        side.finish([side.start_chain(1)])
        for workload in chosen:
            _check_asked()
            workload(side, replace(size, alone=min(size.alone, 5)))


def _merged(rounds: Rounds, side: str) -> list[Figures]:
    """The figures of one side, all workloads of a round together."""
    return [
        {name: value for part in parts for name, value in part.items()}
        for parts in zip(*(sides[side] for sides in rounds.values()), strict=True)
    ]


def _setting(place: Site) -> str:
    versions = ", ".join(f"{name.capitalize()} {number}" for name, number in place.versions.items())
    return f"{versions}; " + ", ".join(f"{name} {value}" for name, value in place.durability.items())


#: Set once somebody asked the bench to end.
_asked = threading.Event()


def _leave(number: int, frame: FrameType | None) -> None:
    """Stop like Ctrl-C does: workers and servers are taken down on the way out."""
    _asked.set()
    raise KeyboardInterrupt


def _check_asked() -> None:
    """Stop if that was asked for: an interrupt that is raised inside a finalizer of some client is swallowed there."""
    if _asked.is_set():
        raise KeyboardInterrupt


if __name__ == "__main__":
    main()
