"""The ports of a step: its own, those of its type and those that its configuration makes. Pure."""

from __future__ import annotations

from llmteam.canvas.models import StepDefinition, StepTypeFacts


def step_inputs(step: StepDefinition, facts: StepTypeFacts) -> tuple[str, ...]:
    """The step's own input ports, then its type's."""
    branches = _branch_ports(step) if facts.kind == "join" else ()
    return tuple(dict.fromkeys([*(p.port_id for p in step.inputs), *branches, *facts.inputs]))


def step_outputs(step: StepDefinition, facts: StepTypeFacts) -> tuple[str, ...]:
    """The step's own output ports, then its type's, then those that its configuration makes."""
    own = [p.port_id for p in step.outputs]
    branches = _branch_ports(step) if facts.kind == "split" else ()
    types = () if branches else facts.outputs
    return tuple(dict.fromkeys([*(own if own != ["output"] or not branches else ()), *branches, *types]))


def _branch_ports(step: StepDefinition) -> tuple[str, ...]:
    branches = step.config.get("branches")
    if isinstance(branches, int) and not isinstance(branches, bool) and 0 < branches <= 100_000:
        return tuple(f"branch_{number}" for number in range(1, branches + 1))
    if isinstance(branches, list):
        return tuple(name for name in branches if isinstance(name, str))
    return ()
