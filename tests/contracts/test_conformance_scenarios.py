"""Scenarios of starts, retries and odd input, wherever the run is; ids are those of docs/reliability.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmteam import codec
from llmteam.canvas import RunConfig, SegmentDefinition
from llmteam.canvas.exceptions import AlreadyRunningError, RunStateError
from llmteam.ids import new_id
from tests.conformance.fleets import Fleet, eventually
from tests.drawing import draw


def once(**more: object) -> RunConfig:
    return RunConfig(max_retries=0, **more)  # type: ignore[arg-type]


def test_w18_a_join_that_one_branch_reaches_gives_a_list_of_one(fleet: Fleet) -> None:
    lines = ("s -> split_1 -> a -> all_1", "split_1 -> if_x", "if_x.false -> b -> all_1", "if_x.true -> c")

    ran = fleet.run(draw(*lines))

    assert ran.outputs["all_1"] == {"output": ["a(s)"]}


def test_w22_a_retry_is_a_run_of_its_own_and_the_old_one_stays_as_it_was(fleet: Fleet) -> None:
    segment = draw("a -> b", config={"b": {"fail": 1}})
    old = fleet.run(segment, config=once())

    # An attempt of the new run counts anew, so that it fails as well.
    new = fleet.wait(fleet.call(fleet.runner.retry(old.result.run_id)))

    assert new.result.run_id != old.result.run_id
    assert (new.status, new.of("a"), new.of("b")) == ("failed", [], ["step.started", "step.failed"])
    assert fleet.wait(old.result.run_id).events == old.events


def test_w22_a_run_that_completed_cannot_be_retried(fleet: Fleet) -> None:
    ran = fleet.run(draw("a"))

    with pytest.raises(RunStateError, match="fork it"):
        fleet.call(fleet.runner.retry(ran.result.run_id))


def test_w23_a_key_that_comes_twice_starts_one_run_and_with_other_input_is_refused(fleet: Fleet) -> None:
    segment, key = draw("a"), new_id()

    def start(value: object) -> str:
        return fleet.call(fleet.runner.start(segment, None, value, idempotency_key=key))

    first = start({"n": 1})

    assert start({"n": 1}) == first
    with pytest.raises(AlreadyRunningError, match="other input"):
        start({"n": 2})
    assert fleet.wait(first).status == "completed"


def test_w26_a_definition_that_is_changed_meanwhile_changes_no_run(fleet: Fleet, gate: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    segment = draw("a -> b", config={"a": {"mark": str(mark), "gate": str(gate)}, "b": {"answer": "old"}})
    run_id = fleet.start(segment)
    eventually(mark.exists, "the first step")

    segment.steps[1].config["answer"] = "new"
    gate.touch()

    assert fleet.wait(run_id).outputs == {"output": "old"}
    assert fleet.run(segment).outputs == {"output": "new"}


TEXTS = {
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202eolleh\u202c",
    "no width": "zero\u200bwidth\ufeff",
    "beyond the first plane": "\U0001f469\u200d\U0001f467 a\u0301",
    "markup": "<script>alert('1')</script> {{ config }} %s $1",
    "long": "x" * 50_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_w27_names_and_values_may_be_any_text(fleet: Fleet, name: str) -> None:
    text = TEXTS[name]
    document = draw("a -> b", config={"a": {"answer": {"text": text}}, "b": {"show": "input"}}).to_dict()
    segment = SegmentDefinition.from_dict(document | {"name": text, "description": text})

    ran = fleet.run(segment, {"text": text})

    assert ran.outputs == {"text": text}
    assert fleet.store.input("default", ran.result.run_id) == codec.dumps({"text": text})
