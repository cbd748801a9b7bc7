"""Look-ups and operators on JSON values with their bounds: the rules of :mod:`llmteam.expressions.evaluator`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from llmteam.errors import LLMTeamError

#: Bits of an integer that arithmetic may make.
MAX_INT_BITS = 4096


class EvaluationError(LLMTeamError):
    """Why an expression has no value; ``reason`` shows no data. Users see :class:`ExpressionError` instead."""

    retryable = False

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MissingError(EvaluationError):
    """A name, key or index is not there; the only kind that ``exists`` and ``default`` forgive."""


def by_key(container: Any, key: str, *, shown: bool = True) -> Any:
    """``container[key]``; a key of null counts as missing, of anything else but an object as an error."""
    if isinstance(container, dict) and key in container:
        return container[key]
    name = f"key {key!r}" if shown else "such key"
    if container is None or isinstance(container, dict):
        raise MissingError(f"no {name}; exists(…) and default(…, …) forgive that")
    raise EvaluationError(f"{kind(container)} has no {name}: only objects have keys")


def items_of(value: Any) -> Any:
    """What a loop goes over: the items of a list, the keys of an object, the characters of text."""
    if not isinstance(value, list | tuple | dict | str):
        raise EvaluationError(f"{kind(value)} has no items")
    return value


def kind(value: Any) -> str:
    """The type of a value in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "text", int: "a number", float: "a number", dict: "an object", list: "a list", tuple: "a list"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), f"a {type(value).__name__}")


def fits(bits: int) -> None:
    """Refuse, before it is computed, an integer of more than :data:`MAX_INT_BITS`."""
    if bits > MAX_INT_BITS:
        raise EvaluationError(f"makes an integer of more than {MAX_INT_BITS:,} bits")


def bounded(value: Any) -> Any:
    """``value``, unless it is an integer that is too long."""
    if isinstance(value, int):
        fits(value.bit_length())
    return value


def _multiply(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        fits(left.bit_length() + right.bit_length())
    return left * right


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0 and abs(base) > 1:
        fits(base.bit_length() * exponent)
    value = base**exponent
    if isinstance(value, complex):
        raise EvaluationError("** of a negative number with a fraction is no real number")
    return value


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise EvaluationError("% does not format text here")
    return left % right


def _shift_left(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        fits(left.bit_length() + right)
    return left << right


UNARY = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert, ast.Not: operator.not_}

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: bounded(left + right),
    ast.Sub: lambda left, right: bounded(left - right),
    ast.Mult: _multiply,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: _modulo,
    ast.Pow: _power,
    ast.LShift: _shift_left,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}

COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
