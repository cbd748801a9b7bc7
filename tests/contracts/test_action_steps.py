"""Steps of the type ``action``, wherever the run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmteam.canvas import EdgeDefinition, RunConfig, SegmentDefinition, StepDefinition
from tests.acting import FALTER, NOTE
from tests.conformance.fleets import Fleet

SOON = RunConfig(retry_delay=0.001)


def acting(action: str, **config: Any) -> SegmentDefinition:
    """One action between two steps."""
    steps = [
        StepDefinition(step_id="before", step_type="work", config=config.pop("before", {})),
        StepDefinition(step_id="act", step_type="action", config={"action": action, **config}),
    ]
    edges = [EdgeDefinition(source_step="before", target_step="act", target_port="input")]
    return SegmentDefinition(segment_id="acting", name="Acting", entrypoint="before", steps=steps, edges=edges)


def test_an_action_takes_the_document_as_its_payload(fleet: Fleet, tmp_path: Path) -> None:
    ran = fleet.run(acting(NOTE, before={"answer": {"path": str(tmp_path / "notes")}}))

    assert ran.status == "completed", ran.result.error
    assert ran.outputs["output"] == {"lines": 1}
    assert (ran.outputs["result"]["status"], ran.outputs["status"]) == ("completed", 0)
    assert ran.of("act") == ["step.started", "action.started", "action.completed", "step.completed"]


def test_a_payload_in_the_configuration_comes_first(fleet: Fleet, tmp_path: Path) -> None:
    ran = fleet.run(acting(NOTE, payload={"path": str(tmp_path / "notes")}))

    assert ran.outputs["output"] == {"lines": 1}


def test_a_transient_failure_is_the_engines_to_try_again(fleet: Fleet, tmp_path: Path) -> None:
    payload = {"path": str(tmp_path / "notes"), "fail": 2}

    ran = fleet.run(acting(FALTER, payload=payload, retry_count=2), config=SOON)

    assert ran.outputs["output"] == {"lines": 3}
    assert ran.of("act").count("step.retrying") == 2
    assert ran.of("act").count("action.failed") == 2


def test_a_failure_that_stays_fails_the_step_and_says_of_which_action(fleet: Fleet, tmp_path: Path) -> None:
    payload = {"path": str(tmp_path / "notes"), "fail": 9}

    ran = fleet.run(acting(FALTER, payload=payload, retry_count=1), config=SOON)

    assert (ran.status, ran.error_type) == ("failed", "ActionFailedError")
    assert ran.result.error is not None
    assert f"Action '{FALTER}' failed with ConnectionResetError" in ran.result.error.error_message


def test_an_action_that_nobody_registered_is_not_tried_again(fleet: Fleet) -> None:
    ran = fleet.run(acting("tests.missing", payload={}, retry_count=3), config=SOON)

    assert (ran.status, ran.of("act").count("step.retrying")) == ("failed", 0)
    assert ran.result.error is not None
    assert "--import" in ran.result.error.error_message


def test_a_failure_can_be_a_result(fleet: Fleet) -> None:
    ran = fleet.run(acting("tests.missing", payload={}, fail_on_error=False))

    assert ran.status == "completed"
    assert (ran.outputs["output"], ran.outputs["result"]["error_type"]) == (None, "ActionNotFound")


def test_a_document_that_is_no_object_is_no_payload(fleet: Fleet) -> None:
    ran = fleet.run(acting(NOTE, before={"answer": "text"}, retry_count=0))

    assert ran.error_type == "ActionPayloadError"
