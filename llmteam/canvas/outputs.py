"""From a handler's answer to what is written of it and what a transition needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmteam import codec
from llmteam.canvas.exceptions import InvalidOutputError
from llmteam.canvas.execution import Limits, inline
from llmteam.canvas.graph import Node
from llmteam.canvas.records import StoredOutput
from llmteam.canvas.routing import StepOutput, decide_edges, shape_output
from llmteam.canvas.state import Completed
from llmteam.errors import NotJSONError
from llmteam.events.payloads import reference


def store_output(node: Node, output: StepOutput, limits: Limits) -> StoredOutput:
    """``output`` as it is written. Raises :class:`NotJSONError`, :class:`PayloadTooLargeError`."""
    text = codec.dumps(output.ports, path="$")
    size = codec.check_size(f"output of step '{node.step_id}'", text, limits.max_output_bytes)
    digest = codec.digest(text) if size > limits.inline_bytes else None
    return StoredOutput(text, output.whole, digest, size)


def completion(
    node: Node, answer: Any, limits: Limits, annotations: Mapping[str, Any] | None = None
) -> tuple[Completed, StoredOutput]:
    """The outcome of a step that answered, and its answer as it is written.

    Raises :class:`InvalidOutputError`, :class:`InvalidConditionError`, :class:`PayloadTooLargeError`.
    """
    try:
        output = shape_output(node, answer)
        if annotations and node.hands_on_annotations:
            output = output.with_annotations(annotations)
        stored = store_output(node, output, limits)
        decisions = decide_edges(node, output)
    except NotJSONError as exc:
        raise InvalidOutputError(node.step_id, str(exc)) from None
    if stored.digest is None:
        shown = inline({"output": output.value}, limits)
        result = inline({"output": output.as_result}, limits) if output.whole else shown
    else:
        shown = result = {"output": reference(stored.digest, stored.size)}
    return Completed(decisions, inline(annotations or {}, limits) | shown, result), stored
