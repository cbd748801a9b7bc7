"""Evaluation of a checked expression tree under budgets; :mod:`llmteam.expressions.language` is its face.

Built on simpleeval, with everything that reaches a Python attribute replaced by key look-up. Work is paid for before
it is done: reading costs steps, building texts and lists costs room, integers are bounded in bits.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from simpleeval import SimpleEval

from llmteam import codec
from llmteam.expressions.operations import (
    BINARY,
    COMPARE,
    UNARY,
    EvaluationError,
    MissingError,
    bounded,
    by_key,
    items_of,
    kind,
)

#: Nodes visited, list places and text blocks read: about half a second of work.
MAX_STEPS = 1_000_000
#: Characters and list places that one evaluation may build, also those it throws away again.
MAX_BUILT = 8_000_000

#: Characters of text that are read for one step.
_BLOCK = 256
_MAX_DIGITS = 400

#: Functions with their least and greatest number of arguments and their keywords.
FUNCTIONS: dict[str, tuple[int, int, frozenset[str]]] = {
    "len": (1, 1, frozenset()),
    "sum": (1, 2, frozenset()),
    "min": (1, 50, frozenset({"default"})),
    "max": (1, 50, frozenset({"default"})),
    "round": (1, 2, frozenset()),
    "sorted": (1, 1, frozenset({"reverse"})),
    "any": (1, 1, frozenset()),
    "all": (1, 1, frozenset()),
    "str": (1, 1, frozenset()),
    "int": (1, 1, frozenset()),
    "float": (1, 1, frozenset()),
    "exists": (1, 1, frozenset()),
    "default": (2, 2, frozenset()),
}

Lookup = Callable[[str], Any]


class BoundedEval(SimpleEval):  # type: ignore[misc]
    """One evaluation of one tree. ``lookup`` answers names or raises :class:`MissingError`."""

    def __init__(self, text: str, lookup: Lookup) -> None:
        # SimpleEval's own constructor changes the warning filters of the whole process, which no thread may do.
        self.expr = text
        self.lookup = lookup
        self.steps = MAX_STEPS
        self.room = MAX_BUILT
        self.scope: dict[str, Any] = {}
        self.operators = UNARY
        self.nodes = {kind: getattr(self, method) for kind, method in _NODES.items()}

    def run(self, tree: ast.expr) -> Any:
        """The value of ``tree``. Raises :class:`EvaluationError`, and what Python's operators raise."""
        return self._eval(tree)

    def _eval(self, node: ast.AST) -> Any:
        self._read(1)
        return self.nodes[type(node)](node)

    def _read(self, count: int) -> None:
        self.steps -= count
        if self.steps < 0:
            raise EvaluationError(f"takes more than {MAX_STEPS:,} steps")

    def _build(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise EvaluationError(f"builds more than {MAX_BUILT:,} characters and list items")

    def _read_all(self, value: Any) -> None:
        """Pay for everything in ``value``, before an operation that may look at all of it."""
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self._read(len(item) // _BLOCK)
            elif isinstance(item, dict | list | tuple):
                self._read(len(item))
                stack.extend(item.values() if isinstance(item, dict) else item)

    def _eval_name(self, node: ast.Name) -> Any:
        return self.scope[node.id] if node.id in self.scope else self.lookup(node.id)

    def _eval_attribute(self, node: ast.Attribute) -> Any:
        return by_key(self._eval(node.value), node.attr)

    def _eval_subscript(self, node: ast.Subscript) -> Any:
        container, key = self._eval(node.value), self._eval(node.slice)
        if isinstance(container, list | tuple | str):
            return self._by_index(container, key)
        if not isinstance(key, str):
            raise EvaluationError(f"{kind(container)} has no items by {kind(key)}")
        return by_key(container, key, shown=isinstance(node.slice, ast.Constant))

    def _by_index(self, container: Sequence[Any], key: Any) -> Any:
        if isinstance(key, slice):
            self._build(len(range(*key.indices(len(container)))))
            return container[key]
        if not isinstance(key, int):
            raise EvaluationError(f"{kind(container)} has items by number, not by {kind(key)}")
        if not -len(container) <= key < len(container):
            raise MissingError(f"index out of range of {kind(container)}; exists(…) and default(…, …) forgive that")
        return container[key]

    def _eval_binop(self, node: ast.BinOp) -> Any:
        """Chains like ``a + b + c`` lean to the left; walked in a loop, their length costs no stack."""
        chain = [node]
        while isinstance(chain[-1].left, ast.BinOp):
            chain.append(chain[-1].left)
        value = self._eval(chain[-1].left)
        for part in reversed(chain):
            value = self._binary(type(part.op), value, self._eval(part.right))
        return value

    def _binary(self, rule: type[ast.operator], left: Any, right: Any) -> Any:
        if rule is ast.Add and isinstance(left, str | list) and isinstance(right, str | list):
            self._build(len(left) + len(right))
        elif rule is ast.Mult:
            many, times = (left, right) if isinstance(left, str | list) else (right, left)
            if isinstance(many, str | list) and isinstance(times, int):
                self._build(len(many) * max(times, 0))
        return BINARY[rule](left, right)

    def _eval_compare(self, node: ast.Compare) -> bool:
        left = self._eval(node.left)
        for rule, part in zip(node.ops, node.comparators, strict=True):
            right = self._eval(part)
            self._pay_comparison(rule, left, right)
            if not COMPARE[type(rule)](left, right):
                return False
            left = right
        return True

    def _pay_comparison(self, rule: ast.cmpop, left: Any, right: Any) -> None:
        """Equality looks no further than the smaller side; membership may compare with each item."""
        searching = isinstance(rule, ast.In | ast.NotIn)
        if isinstance(right, str):
            self._read(len(right) // _BLOCK)
        elif searching and not isinstance(left, list | dict | tuple | str):
            self._read(len(right) if isinstance(right, list | tuple) else 0)
        elif isinstance(right, list | dict | tuple):
            self._read_all(right if searching and not isinstance(right, dict) else left)

    def _eval_list(self, node: ast.List | ast.Tuple) -> list[Any]:
        self._build(len(node.elts))
        return [self._eval(part) for part in node.elts]

    def _eval_dict(self, node: ast.Dict) -> dict[str, Any]:
        self._build(len(node.keys))
        pairs = zip(node.keys, node.values, strict=True)
        return {self._key(key): self._eval(value) for key, value in pairs if key is not None}

    def _key(self, node: ast.expr) -> str:
        key = self._eval(node)
        if not isinstance(key, str):
            raise EvaluationError(f"the keys of an object are text, not {kind(key)}")
        return key

    def _eval_comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> list[Any]:
        items: list[Any] = []
        self._comprehend(node.generators, lambda: items.append(self._eval(node.elt)))
        return items

    def _eval_dict_comprehension(self, node: ast.DictComp) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self._comprehend(node.generators, lambda: made.update({self._key(node.key): self._eval(node.value)}))
        return made

    def _comprehend(self, generators: list[ast.comprehension], take: Callable[[], None]) -> None:
        outer = self.scope
        self.scope = dict(outer)
        try:
            self._loop(generators, 0, take)
        finally:
            self.scope = outer

    def _loop(self, generators: list[ast.comprehension], level: int, take: Callable[[], None]) -> None:
        if level == len(generators):
            self._build(1)
            take()
            return
        generator = generators[level]
        for item in items_of(self._eval(generator.iter)):
            self._read(1)
            self._assign(generator.target, item)
            if all(self._eval(condition) for condition in generator.ifs):
                self._loop(generators, level + 1, take)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.scope[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            if not isinstance(value, list | tuple) or len(value) != len(target.elts):
                raise EvaluationError(f"{len(target.elts)} names need a list of as many items")
            for part, item in zip(target.elts, value, strict=True):
                self._assign(part, item)

    def _eval_call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("exists", "default"):
            return self._probe(name, node.args)
        keywords = {str(keyword.arg): self._eval(keyword.value) for keyword in node.keywords}
        return getattr(self, f"_call_{name}")(*[self._eval(part) for part in node.args], **keywords)

    def _probe(self, name: str, args: list[ast.expr]) -> Any:
        found, value = True, None
        try:
            value = self._eval(args[0])
        except MissingError:
            found = False
        if name == "exists":
            return found
        return value if found else self._eval(args[1])

    def _call_len(self, value: Any) -> int:
        return len(items_of(value))

    def _call_sum(self, values: Any, start: Any = 0) -> Any:
        self._read(len(items_of(values)))
        if not all(isinstance(item, int | float) for item in (start, *values)):
            raise EvaluationError("sum() adds numbers only")
        return bounded(sum(values, start))

    def _call_min(self, *values: Any, **keywords: Any) -> Any:
        return self._extreme(min, values, keywords)

    def _call_max(self, *values: Any, **keywords: Any) -> Any:
        return self._extreme(max, values, keywords)

    def _extreme(self, choose: Callable[..., Any], values: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        self._read_all(values)
        if len(values) > 1:
            return choose(values)
        if not items_of(values[0]) and not keywords:
            raise EvaluationError(f"{choose.__name__}() of nothing: give default=…")
        return choose(values[0], **keywords)

    def _call_round(self, number: Any, digits: Any = None) -> Any:
        if not isinstance(number, int | float) or not isinstance(digits, int | None):
            raise EvaluationError("round() takes a number and a count of digits")
        if digits is not None and abs(digits) > _MAX_DIGITS:
            raise EvaluationError(f"round() to more than {_MAX_DIGITS} digits")
        return round(number, digits)

    def _call_sorted(self, values: Any, reverse: Any = False) -> list[Any]:
        length = len(items_of(values))
        self._build(length)
        for _ in range(length.bit_length()):
            self._read_all(values)
        return sorted(values, reverse=bool(reverse))

    def _call_any(self, values: Any) -> bool:
        self._read(len(items_of(values)))
        return any(values)

    def _call_all(self, values: Any) -> bool:
        self._read(len(items_of(values)))
        return all(values)

    def _call_str(self, value: Any) -> str:
        """Text as it is, everything else as JSON."""
        if isinstance(value, str):
            return value
        self._read_all(value)
        text = codec.dumps(value)
        self._build(len(text))
        return text

    def _call_int(self, value: Any) -> int:
        return int(self._number(int, value))

    def _call_float(self, value: Any) -> float:
        return float(self._number(float, value))

    def _number(self, parse: type[int] | type[float], value: Any) -> int | float:
        """``value`` as a number. Python's own messages would show the text."""
        if isinstance(value, int | float):
            return value
        if not isinstance(value, str):
            raise EvaluationError(f"{parse.__name__}() takes a number or text, not {kind(value)}")
        self._read(len(value) // _BLOCK)
        try:
            return parse(value)
        except ValueError:
            raise EvaluationError(f"{parse.__name__}() of text that is no such number") from None


_NODES = {
    ast.Constant: "_eval_constant",
    ast.Name: "_eval_name",
    ast.Attribute: "_eval_attribute",
    ast.Subscript: "_eval_subscript",
    ast.Slice: "_eval_slice",
    ast.UnaryOp: "_eval_unaryop",
    ast.BinOp: "_eval_binop",
    ast.BoolOp: "_eval_boolop",
    ast.Compare: "_eval_compare",
    ast.IfExp: "_eval_ifexp",
    ast.Call: "_eval_call",
    ast.List: "_eval_list",
    ast.Tuple: "_eval_list",
    ast.Dict: "_eval_dict",
    ast.ListComp: "_eval_comprehension",
    ast.GeneratorExp: "_eval_comprehension",
    ast.DictComp: "_eval_dict_comprehension",
}

#: What a checked tree may hold, beside the contexts and containers that carry no work of their own.
EXPRESSIONS = frozenset(_NODES)
OPERATORS = frozenset({*UNARY, *BINARY, *COMPARE, ast.And, ast.Or})
