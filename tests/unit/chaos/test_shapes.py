"""Runs are drawn from a seed; every shape is a sound segment, and what it comes to is known before."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos import steps
from chaos.effects import Ledger, service
from chaos.rehearsal import outcome_of, rehearse
from chaos.shapes import Case, Outcome, Shape, cases, shapes
from llmteam.canvas import StepCatalog, validate_segment_dict
from llmteam.runtime import default_manager

ALL = shapes(lease=0.1, width=4)


@pytest.fixture(autouse=True)
def step_types() -> None:
    """Known to whatever catalog the process has."""
    catalog = StepCatalog.get_instance()
    types = {steps.THREAD: steps.act, steps.PROCESS: steps.act, steps.LOOP: steps.act_on_loop}
    for type_id, handler in types.items():
        if not catalog.has(type_id):
            steps.step_type(type_id, catalog=catalog)(handler)


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_every_shape_is_sound(shape: Shape) -> None:
    result = validate_segment_dict(shape.segment.to_dict())

    assert result.errors == []


def test_a_seed_gives_the_same_runs_again() -> None:
    def drawn(seed: int) -> list[tuple[str, float]]:
        return [(case.run_id, case.at) for case in cases(ALL, 100, 60.0, seed)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_every_shape_is_among_the_runs_and_rare_ones_stay_rare() -> None:
    drawn = cases(ALL, 300, 60.0, 1)

    counts = Counter(case.shape.name for case in drawn)
    assert set(counts) == {shape.name for shape in ALL}
    assert len(drawn) == 300
    assert len({case.run_id for case in drawn}) == 300
    assert all(counts[shape.name] <= shape.most for shape in ALL if shape.most is not None)


def test_runs_start_within_the_time_and_poison_first() -> None:
    drawn = cases(ALL, 100, 60.0, 1)

    assert drawn[0].shape.known is not None
    assert all(0 <= case.at < 60.0 for case in drawn)
    assert [case.at for case in drawn] == sorted(case.at for case in drawn)


def test_a_rehearsal_tells_status_outputs_and_effects_of_any_label() -> None:
    chosen = [shape for shape in ALL if shape.name in ("chain", "loop", "fails", "poison")]

    with service() as ledger:
        steps.register_service(ledger.url)
        outcomes = rehearse(chosen, ledger)
        default_manager().clients.unregister(steps.CLIENT)
    chain, loop, fails, poison = (outcome_of(case_of(shape), outcomes) for shape in chosen)

    assert (chain.status, chain.effects) == ("completed", {"post", "pay"})
    assert chain.outputs["output"]["label"] == "r-1"
    assert loop.effects == {"round-0", "round-1", "round-2"}
    assert (fails.status, fails.error_type) == ("failed", "BrokenError")
    assert poison == Outcome("failed", {}, "WorkerLostError", frozenset({"before"}))


def case_of(shape: Shape) -> Case:
    return Case("r-1", "alpha", shape, 0.0)


def test_the_ledger_keeps_who_which_key_and_how_often() -> None:
    ledger = Ledger()

    for key in ("k", "k", "l"):
        ledger.note("run", "pay", key)

    assert ledger.entries() == {("run", "pay"): {"k": 2, "l": 1}}
