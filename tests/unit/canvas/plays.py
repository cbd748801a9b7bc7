"""Short words for moving a simulated run by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmteam.canvas.graph import Node
from llmteam.canvas.ports import ERROR_PORT
from llmteam.canvas.routing import DEAD, LIVE, compact
from llmteam.canvas.state import Change, Completed, Failed
from llmteam.events.models import ErrorInfo
from tests.unit.canvas.checked_simulation import CheckedSimulation


class Play(CheckedSimulation):
    """A run that a test moves step by step; ``visit`` is the latest one of a step unless it is said."""

    def latest(self, step_id: str) -> int:
        return max(visit for name, visit in self.rows if name == step_id)

    def begin(self, *steps: str) -> None:
        """Claim steps that are due."""
        for step_id in steps:
            assert self.claim((step_id, self.latest(step_id))) is not None, f"{step_id} is not due: {self.states()}"

    def end(self, step_id: str, *targets: str, **how: str) -> Change:
        """Let a running step answer so that only ``targets`` are followed; all of them when none is named."""
        node = self.graph.nodes[step_id]
        return self.finish(
            (step_id, self.latest(step_id)), Completed(towards(node, targets), {}, {"output": step_id}), **how
        )

    def fail(self, step_id: str, *, retryable: bool | None = None) -> Change:
        """Let a running step fail."""
        failure = Failed(ErrorInfo(error_type="ValueError", error_message=f"{step_id} broke"), retryable=retryable)
        return self.finish((step_id, self.latest(step_id)), failure)

    def do(self, *steps: str, **ways: str) -> None:
        """Claim and finish one after the other; ``ways`` names the one target of a step that chooses."""
        for step_id in steps:
            self.begin(step_id)
            self.end(step_id, *([ways[step_id]] if step_id in ways else []))

    @property
    def due(self) -> set[str]:
        return {key[0] for key in self.ready}

    def shown(self) -> Mapping[str, str]:
        """State of the latest visit of each step."""
        return {step_id: str(self.state(step_id, self.latest(step_id))) for step_id, _ in self.rows}

    def told(self, *kinds: str) -> list[Any]:
        """Steps of the events of these types, in order."""
        return [event.step_id for event in self.events if event.event_type in kinds]


def towards(node: Node, targets: tuple[str, ...]) -> tuple[int, ...]:
    """Decisions by which only edges to ``targets`` are followed; without targets all but those for errors."""
    chosen = [edge.target in targets if targets else edge.source_port != ERROR_PORT for edge in node.outs]
    assert set(targets) <= {edge.target for edge in node.outs}
    return compact([LIVE if one else DEAD for one in chosen])
