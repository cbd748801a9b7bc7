"""llmteam as its users call it: segments of no-op steps, started and asked after from another process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from bench import steps
from llmteam.canvas.client import SegmentClient
from llmteam.canvas.models import EdgeDefinition, SegmentDefinition, StepDefinition
from llmteam.canvas.state import SegmentStatus
from llmteam.settings import Settings

TENANT = "bench"
_RESULT_SECONDS = 120


@cache
def chain_of(length: int) -> SegmentDefinition:
    """Steps in a row."""
    names = [f"step_{number}" for number in range(length)]
    return SegmentDefinition(
        segment_id=f"chain_{length}",
        name="A chain of steps that do nothing",
        steps=[StepDefinition(step_id=name, step_type="bench_noop") for name in names],
        edges=[EdgeDefinition(source_step=a, target_step=b) for a, b in pairwise(names)],
    )


@cache
def fan_of(width: int) -> SegmentDefinition:
    """A split into branches of one step, and the join that waits for all of them."""
    numbers = range(1, width + 1)
    split = StepDefinition(step_id="split", step_type="parallel_split", config={"branches": width})
    join = StepDefinition(step_id="join", step_type="parallel_join", config={"branches": width})
    branches = [StepDefinition(step_id=f"work_{number}", step_type="bench_noop") for number in numbers]
    out = [
        EdgeDefinition(source_step="split", source_port=f"branch_{number}", target_step=f"work_{number}")
        for number in numbers
    ]
    back = [
        EdgeDefinition(source_step=f"work_{number}", target_step="join", target_port=f"branch_{number}")
        for number in numbers
    ]
    return SegmentDefinition(
        segment_id=f"fan_{width}",
        name="Branches that do nothing, and their join",
        entrypoint="split",
        steps=[split, *branches, join],
        edges=[*out, *back],
    )


@cache
def wait_of(seconds: float) -> SegmentDefinition:
    """One step that waits."""
    step = StepDefinition(step_id="wait", step_type="bench_wait", config={"seconds": seconds})
    return SegmentDefinition(segment_id="wait", name="A wait", steps=[step])


@cache
def ask_of() -> SegmentDefinition:
    """A step that asks a person, and one behind it."""
    ask = StepDefinition(step_id="ask", step_type="human_task", config={"task_type": "approval", "title": "Go on?"})
    return SegmentDefinition(
        segment_id="ask",
        name="A person who is asked",
        steps=[ask, StepDefinition(step_id="after", step_type="bench_noop")],
        edges=[EdgeDefinition(source_step="ask", source_port="approved", target_step="after")],
    )


@cache
def model_of() -> SegmentDefinition:
    """A question to a model, with a step before it that prepares and one after it that reads."""
    prompt = "Read this order and say in a few sentences whether anything in it is unusual: {document}"
    return SegmentDefinition(
        segment_id="model",
        name="A model that is asked",
        steps=[
            StepDefinition(step_id="prepare", step_type="transform", config={"mapping": {"document": _ORDER}}),
            StepDefinition(
                step_id="ask",
                step_type="llm_agent",
                config={"llm_ref": steps.MODEL, "prompt": prompt, "system_prompt": "You check orders."},
            ),
            StepDefinition(step_id="read", step_type="bench_noop"),
        ],
        edges=[
            EdgeDefinition(source_step="prepare", target_step="ask"),
            EdgeDefinition(source_step="ask", target_step="read"),
        ],
    )


#: An expression: an order of three lines.
_ORDER = repr({"id": "A-17", "lines": [{"article": f"article {n}", "amount": n, "price": 12.5} for n in (1, 2, 3)]})


@cache
def trips_of() -> SegmentDefinition:
    """One step that counts what its worker has asked of Postgres."""
    return SegmentDefinition(
        segment_id="trips", name="Round trips", steps=[StepDefinition(step_id="trips", step_type="bench_trips")]
    )


class Llmteam:
    """A client of llmteam: starts runs, then asks for their results."""

    name = "llmteam"

    def __init__(self, settings: Settings) -> None:
        assert steps.QUEUE  # imported for its step types: a start checks that every type is known
        self._client = SegmentClient.connect(settings=settings, tenant_id=TENANT)

    def start_chain(self, length: int) -> str:
        return self._client.start(chain_of(length), 1)

    def start_fan(self, width: int) -> str:
        return self._client.start(fan_of(width), 1)

    def start_wait(self, seconds: float) -> str:
        return self._client.start(wait_of(seconds), 1)

    def finish(self, started: Sequence[str]) -> None:
        for run_id in started:
            result = self._client.result(run_id, _RESULT_SECONDS)
            if result.status is not SegmentStatus.COMPLETED or not result.outputs:
                raise AssertionError(f"run {run_id} is {result.status.value} with {result.outputs!r}: {result.error}")

    def close(self) -> None:
        self._client.close()
