"""Faults are drawn from a seed: the same again for the same seed, each kind in its turn, none that would never end."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from bench.servers import ROOT
from chaos.schedule import Fault, Kind, schedule

SEEDS = st.integers(min_value=0, max_value=1_000_000)


def drawn(seed: int, seconds: float = 60.0) -> list[Fault]:
    return schedule(seed, seconds, lease=4.0, every=2.0)


@given(SEEDS)
def test_a_seed_gives_the_same_faults_again(seed: int) -> None:
    assert drawn(seed) == drawn(seed)


def test_another_process_draws_the_same_faults() -> None:
    program = (
        "from chaos.schedule import schedule, Kind; "
        "print(schedule(7, 60.0, lease=4.0, every=2.0, kinds=frozenset(Kind)))"
    )

    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert printed == {f"{drawn(7)}\n"}


def test_seeds_differ() -> None:
    assert drawn(1) != drawn(2)


@given(SEEDS)
def test_every_kind_has_its_turn_where_there_is_time(seed: int) -> None:
    assert {fault.kind for fault in drawn(seed)} == set(Kind)


@given(SEEDS)
def test_faults_come_in_order_and_nothing_outlasts_them(seed: int) -> None:
    faults = drawn(seed)

    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(fault.at >= 0 and fault.at + fault.seconds <= 60.0 for fault in faults)


@given(SEEDS)
def test_what_is_frozen_outlives_its_lease(seed: int) -> None:
    frozen = [fault.seconds for fault in drawn(seed) if fault.kind is Kind.FREEZE]

    assert frozen
    assert all(5.0 <= seconds <= 10.0 for seconds in frozen)


@given(SEEDS)
def test_beat_dies_once_and_half_way(seed: int) -> None:
    (death,) = [fault.at for fault in drawn(seed) if fault.kind is Kind.KILL_BEAT]

    assert 20.0 <= death <= 40.0


def test_only_the_kinds_that_were_asked_for_come() -> None:
    asked = schedule(1, 60.0, lease=4.0, every=2.0, kinds=[Kind.DROP, Kind.FLUSH])

    assert {fault.kind for fault in asked} == {Kind.DROP, Kind.FLUSH}
    assert schedule(1, 60.0, lease=4.0, every=2.0, kinds=[]) == []


def test_a_short_time_has_few_faults() -> None:
    assert len(drawn(1, seconds=6.0)) == 4


def test_every_kind_is_described_with_what_it_does() -> None:
    table = (ROOT / "docs/chaos.md").read_text(encoding="utf-8").partition("<!-- faults -->")[2].partition("\n\n")[0]

    described = [line.split(" | ")[0].strip("| ") for line in table.strip().splitlines()[2:]]

    assert described == list(Kind)
