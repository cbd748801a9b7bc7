"""``python -m chaos``: an installation of its own under load, faults from a seed, one table; 0 if everything held."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import click

from chaos import report
from chaos.command import play
from chaos.schedule import Kind
from chaos.trial import FULL, QUICK, trial

_WORDS = {kind.word: kind for kind in Kind}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer runs and less time: every kind of fault about once.")
@click.option("--runs", type=click.IntRange(20), help=f"Runs to start ({FULL.runs}).")
@click.option("--seconds", type=click.FloatRange(5), help=f"How long faults come ({FULL.seconds:g}).")
@click.option("--seed", type=click.IntRange(0), help="Have the faults and runs of an earlier trial again.")
@click.option("--every", type=click.FloatRange(0.2), help=f"Seconds between two faults ({FULL.every:g}).")
@click.option("--only", type=click.Choice(list(_WORDS)), multiple=True, help="Only this kind of fault.")
@click.option("--no-faults", is_flag=True, help="Load, and nothing that breaks.")
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep the logs of workers there.")
def main(
    quick: bool,
    runs: int | None,
    seconds: float | None,
    every: float | None,
    seed: int | None,
    only: tuple[str, ...],
    no_faults: bool,
    target: Path | None,
    logs: Path | None,
) -> None:
    """Break things under load, on servers and workers of its own, and look whether anything was lost or done twice."""
    size = QUICK if quick else FULL
    size = replace(size, runs=runs or size.runs, seconds=seconds or size.seconds, every=every or size.every)
    kinds = [] if no_faults else [_WORDS[word] for word in only] or list(Kind)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    words = f"seed {seed}; again with --seed {seed}{' --quick' if quick else ''}"
    play(words, lambda tell: trial(size, seed, tell, kinds=kinds, logs=logs and logs.resolve()), report.show, target)


if __name__ == "__main__":
    main()
