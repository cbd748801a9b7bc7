"""Expressions of segments: :mod:`llmteam.expressions` with the errors and the names of steps and edges."""

from __future__ import annotations

from collections import ChainMap
from typing import Any

from llmteam import expressions
from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.expressions import Expression

_DOCUMENT_NAMES = ("data", "input", "value")


def compile_expression(text: str) -> Expression:
    """Parse and check ``text``. Raises :class:`InvalidConditionError` that says what and where."""
    return expressions.compile_expression(text, InvalidConditionError)


def evaluate_on_document(text: str, document: Any) -> Any:
    """The value of ``text`` over a step's document. Raises :class:`InvalidConditionError`."""
    return compile_expression(text).evaluate(document)


def evaluate_edge_condition(text: str, output: Any, port_value: Any) -> bool:
    """Whether an edge's condition holds.

    Names are keys of the source's ``output``, then keys of the value that the edge carries; ``output`` and ``result``
    are the whole output, ``data``, ``input`` and ``value`` what the edge carries. Raises
    :class:`InvalidConditionError`; what cannot be answered is never taken for true.
    """
    carried = dict.fromkeys(_DOCUMENT_NAMES, port_value)
    own: dict[str, Any] = {"output": output, "result": output, **carried}
    names = ChainMap(port_value, own) if isinstance(port_value, dict) else own
    return bool(compile_expression(text).evaluate(output, names))
