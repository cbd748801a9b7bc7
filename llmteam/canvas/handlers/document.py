"""What a built-in step works on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmteam.runtime.context import StepContext


def document(ctx: StepContext, input_data: Any, ports: tuple[str, ...] = ("input",)) -> Any:
    """The step's document: the value of the one input port that was reached, else the input as it is.

    A context that was made by hand knows no ports; ``ports`` are then the type's own.
    """
    return only_value(input_data, ctx.inputs or ports)


def only_value(input_data: Any, ports: tuple[str, ...]) -> Any:
    """The value of the one of ``ports`` that was reached, else the input as it is."""
    if isinstance(input_data, dict) and len(input_data) == 1:
        port, value = next(iter(input_data.items()))
        if port in ports:
            return value
    return input_data
