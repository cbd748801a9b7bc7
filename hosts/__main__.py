"""``python -m hosts``: cut hosts off and join them again; exit code 0 only if every promise held."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import click

from chaos.command import play
from hosts import namespaces, report
from hosts.forwarders import Forwarders
from hosts.namespaces import Namespaces
from hosts.network import Kind
from hosts.trial import FULL, QUICK, trial

_WORDS = {kind.word: kind for kind in Kind}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Two hosts, two cuts of seconds, short leases.")
@click.option("--cut", type=click.FloatRange(1), help=f"Seconds for which a host is cut off ({FULL.cut:g}).")
@click.option("--lease", type=click.FloatRange(0.5), help=f"LLMTEAM_LEASE_SECONDS ({FULL.lease:g}).")
@click.option("--rounds", type=click.IntRange(1), default=1, help="How often each kind of cut comes (1).")
@click.option("--seed", type=click.IntRange(0), help="Cut off the same hosts as an earlier trial.")
@click.option("--only", type=click.Choice(list(_WORDS)), multiple=True, help="Only this kind of cut.")
@click.option("--no-namespaces", is_flag=True, help="Processes and forwarders, also where the kernel can do better.")
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep the logs of workers there.")
def main(
    quick: bool,
    cut: float | None,
    lease: float | None,
    rounds: int,
    seed: int | None,
    only: tuple[str, ...],
    no_namespaces: bool,
    target: Path | None,
    logs: Path | None,
) -> None:
    """Cut hosts off from their servers and join them again; look whether anything was lost or counted twice."""
    if not no_namespaces:
        namespaces.enter("hosts")
    size = QUICK if quick else FULL
    kinds = tuple(_WORDS[word] for word in only) or size.kinds
    size = replace(size, cut=cut or size.cut, lease=lease or size.lease, kinds=kinds * rounds)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    make = Namespaces if namespaces.entered() else Forwarders
    words = f"hosts are {make.words}; seed {seed}"
    play(words, lambda tell: trial(size, seed, make, tell, logs and logs.resolve()), report.show, target)


if __name__ == "__main__":
    main()
