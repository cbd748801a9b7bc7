"""What a graph asks of its tenant: the features that its steps need. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from llmteam.canvas.graph import Node

#: Features by the step type that needs them; other types need none.
_OF_TYPE = {
    "llm_agent": "basic_agents",
    "team": "basic_agents",
    "parallel_split": "parallel_execution",
    "http_action": "external_actions",
    "human_task": "human_interaction",
}


def features_needed(nodes: Iterable[Node]) -> list[str]:
    """The features without which these steps may not be started, each once, by name."""
    return sorted({_OF_TYPE[node.step.step_type] for node in nodes if node.step.step_type in _OF_TYPE})
