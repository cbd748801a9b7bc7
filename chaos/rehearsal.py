"""What each shape comes to when nothing goes wrong: run once in this process, on memory stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from chaos.effects import Ledger
from chaos.people import answer_in_process
from chaos.shapes import LABEL, Case, Outcome, Shape
from llmteam.canvas import HumanTaskHandler, RunConfig, SegmentRunner
from llmteam.human import HumanInteractionManager, MemoryInteractionStore

#: Failed steps of all runs try again this many seconds later, then after twice that.
RETRY_DELAY = 0.2


def config() -> RunConfig:
    """How runs are started, here and by the trial."""
    return RunConfig(retry_delay=RETRY_DELAY)


def rehearse(all_shapes: Sequence[Shape], ledger: Ledger) -> dict[str, Outcome]:
    """The outcome of each shape by its name, for the label :data:`LABEL`; effects go to the service as later."""
    return asyncio.run(_rehearse(all_shapes, ledger))


async def _rehearse(all_shapes: Sequence[Shape], ledger: Ledger) -> dict[str, Outcome]:
    runner, inbox = SegmentRunner(), HumanInteractionManager(MemoryInteractionStore())
    runner.register_handler("human_task", HumanTaskHandler(inbox))
    person = asyncio.create_task(answer_in_process(inbox))
    outcomes = await asyncio.gather(*(_outcome(runner, shape, ledger) for shape in all_shapes))
    person.cancel()
    return {shape.name: outcome for shape, outcome in zip(all_shapes, outcomes, strict=True)}


async def _outcome(runner: SegmentRunner, shape: Shape, ledger: Ledger) -> Outcome:
    if shape.known is not None:
        return shape.known
    label = f"{LABEL}-{shape.name}"
    result = await runner.run(shape.segment, None, shape.input_for(label), config=config())
    outputs = json.loads(json.dumps(result.outputs).replace(label, LABEL))
    error_type = None if result.error is None else result.error.error_type
    return Outcome(
        result.status.value,
        outputs,
        error_type,
        frozenset(name for owner, name in ledger.entries() if owner == label),
    )


def outcome_of(case: Case, outcomes: Mapping[str, Outcome]) -> Outcome:
    """What this very run has to come to."""
    found = outcomes[case.shape.name]
    return Outcome(found.status, relabelled(found.outputs, case.label), found.error_type, found.effects)


def relabelled(outputs: Any, label: str) -> Any:
    """Outputs with the label of a run in place of the stand-in."""
    return json.loads(json.dumps(outputs).replace(LABEL, label))
