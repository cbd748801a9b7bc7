"""Steps that route and reshape: ``condition``, ``transform``, ``parallel_split``, ``parallel_join``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.expressions import evaluate_on_document
from llmteam.canvas.handlers.document import document
from llmteam.canvas.ports import Broadcast, Ports

if TYPE_CHECKING:
    from llmteam.runtime.context import StepContext

_NUMBERED = re.compile(r"branch_([1-9]\d{0,8})")


def condition(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Ports:
    """The document, unchanged, on port ``true`` or ``false``. Raises :class:`InvalidConditionError`."""
    value = document(ctx, input_data)
    return Ports({"true" if evaluate_on_document(config["expression"], value) else "false": value})


def transform(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Ports:
    """The value of ``expression``, or an object with one expression per key of ``mapping``, else the document.

    ``default`` stands in where a name, key or index is missing. Raises :class:`InvalidConditionError`.
    """
    value = document(ctx, input_data)
    if "mapping" in config:
        value = {key: _evaluate(text, value, config) for key, text in config["mapping"].items()}
    elif "expression" in config:
        value = _evaluate(config["expression"], value, config)
    return Ports({"output": value})


def _evaluate(text: str, value: Any, config: dict[str, Any]) -> Any:
    try:
        return evaluate_on_document(text, value)
    except InvalidConditionError as exc:
        if exc.missing and "default" in config:
            return config["default"]
        raise


def parallel_split(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Broadcast:
    """The document on every output port, stored once however many branches there are."""
    return Broadcast(document(ctx, input_data))


def parallel_join(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Ports:
    """What has arrived, as a list in the order of the input ports; under ``first`` one of it only.

    When the join runs is the engine's decision, by the same ``merge_strategy``.
    """
    if not isinstance(input_data, dict):
        return Ports({"output": [input_data]})
    declared = {port: place for place, port in enumerate(ctx.inputs)}
    arrived = [input_data[port] for port in sorted(input_data, key=lambda port: _place(declared, port))]
    return Ports({"output": arrived[:1] if config.get("merge_strategy") == "first" else arrived})


def _place(declared: dict[str, int], port: str) -> tuple[int, int]:
    """Declared ports in their order, then ``branch_N`` by number, then the rest as the edges stand."""
    if port in declared:
        return 0, declared[port]
    numbered = _NUMBERED.fullmatch(port)
    return (1, int(numbered[1])) if numbered else (2, 0)
