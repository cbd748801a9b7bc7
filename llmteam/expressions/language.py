"""Expressions of conditions and transforms: Python's operators and comprehensions over JSON values, bounded.

``a.b`` is the key ``b`` of the object ``a`` and nothing else; no attribute of a Python object is ever read. A text is
checked before it is parsed (length, nesting), the tree before it is evaluated (only what is listed), and the evaluation
runs under budgets (:mod:`llmteam.expressions.evaluator`), so that every expression ends soon, whatever it is given.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from llmteam.errors import NotJSONError
from llmteam.expressions.evaluator import EXPRESSIONS, FUNCTIONS, OPERATORS, BoundedEval
from llmteam.expressions.exceptions import ExpressionError
from llmteam.expressions.operations import EvaluationError, MissingError

#: Characters that the text of an expression may have.
MAX_LENGTH = 1000
#: Levels of nesting, of brackets and of operations.
MAX_LEVELS = 50
#: Size of a result: about its characters as JSON.
MAX_RESULT = 8_000_000

_LITERALS = {"true": True, "false": False, "null": None}
_DOCUMENT_NAMES = frozenset({"data", "input", "value"})

_TEXT = re.compile(r"""(\w*)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = frozenset("\\'\"abfnrtvxuU\n")
#: A number that hangs on a name, as in ``items.0``.
_NAME_NUMBER = re.compile(r"(?<!\w)[^\W\d]\w*\.\d")
_NUMBER = re.compile(r"(?<![\w.])\.?\d[\w.]*")
_NUMBER_FORM = re.compile(r"0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[\d_]*\.?[\d_]*(?:[eE][\d_]*)?", re.ASCII)
_UNARY_RUN = re.compile(rf"(?:(?:\bnot\b|[-+~])\s*){{{MAX_LEVELS + 1}}}")

_REFUSED: dict[type[ast.AST], str] = {
    ast.Lambda: "lambda",
    ast.JoinedStr: "f'…' texts",
    ast.NamedExpr: "assignment (:=)",
    ast.Starred: "* before a value",
    ast.Set: "sets (write a list)",
    ast.SetComp: "sets (write a list)",
    ast.MatMult: "@",
}

_HINTS = (
    ("[*]", "write [item.name for item in items] instead of items[*].name"),
    ("$", "write data instead of $"),
    ("@", "write data instead of @"),
    ("&&", "write and"),
    ("||", "write or"),
    (" contains ", "write 'part' in text"),
    ("startswith", "write text[:3] == 'abc'"),
    ("endswith", "write text[-3:] == 'abc'"),
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. Make it with :func:`compile_expression`."""

    text: str
    tree: ast.expr = field(repr=False, compare=False)
    error: type[ExpressionError] = field(default=ExpressionError, repr=False, compare=False)

    def evaluate(self, document: Any, names: Mapping[str, Any] | None = None) -> Any:
        """The value over a JSON ``document``, which is never changed; parts of it may be part of the result.

        A name is a variable of a comprehension, ``true``, ``false`` or ``null``, a key of the document, one of
        ``names``, or ``data``, ``input``, ``value`` for the document itself, in this order.

        Raises:
            ExpressionError: of the kind it was compiled with: something is missing, of the wrong type, or over a limit.
        """
        evaluation = BoundedEval(self.text, lambda name: _look_up(name, document, names or {}))
        try:
            result = evaluation.run(self.tree)
            _check_result(result)
        except EvaluationError as exc:
            raise self.error(self.text, exc.reason, isinstance(exc, MissingError)) from None
        except NotJSONError as exc:
            raise self.error(self.text, exc.reason) from None
        except (TypeError, ZeroDivisionError) as exc:
            raise self.error(self.text, str(exc)) from None
        except (ValueError, ArithmeticError, LookupError, RecursionError, MemoryError) as exc:
            raise self.error(self.text, f"value out of range ({type(exc).__name__})") from None
        return result


def _look_up(name: str, document: Any, names: Mapping[str, Any]) -> Any:
    if name in _LITERALS:
        return _LITERALS[name]
    if isinstance(document, dict) and name in document:
        return document[name]
    if name in names:
        return names[name]
    if name in _DOCUMENT_NAMES:
        return document
    raise MissingError(f"unknown name {name!r}; exists(…) and default(…, …) forgive that")


def _check_result(result: Any) -> None:
    """Refuse what is too large or no JSON number; a part that is met twice counts twice, as it does when written."""
    size = 0
    stack = [result]
    while stack:
        item = stack.pop()
        size += 8
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict | list | tuple):
            size += len(item)
            if size <= MAX_RESULT:
                stack.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise EvaluationError(f"the result holds {item}, which is no JSON number")
        if size > MAX_RESULT:
            raise EvaluationError(f"the result is larger than {MAX_RESULT:,} characters of JSON")


def compile_expression(text: str, error: type[ExpressionError] = ExpressionError) -> Expression:
    """Parse and check ``text``. Raises ``error``, as its evaluation will, which says what and where."""
    if not isinstance(text, str):
        raise error(repr(text)[:80], "an expression is text")
    if len(text) > MAX_LENGTH:
        raise error(text, f"longer than {MAX_LENGTH:,} characters")
    if not text.strip():
        raise error(text, "it is empty")
    try:
        found = _compiled(text.strip())
    except ExpressionError as exc:
        raise error(exc.condition, exc.reason) from None
    return found if error is ExpressionError else replace(found, error=error)


@lru_cache(maxsize=2048)
def _compiled(text: str) -> Expression:
    for reason in _text_faults(text):
        raise ExpressionError(text, reason)
    try:
        tree = ast.parse(text, "<expression>", mode="eval").body
    except SyntaxError as exc:
        raise ExpressionError(text, f"{exc.msg} (character {exc.offset or 1}){_hint(text)}") from None
    except (ValueError, RecursionError, MemoryError) as exc:
        raise ExpressionError(text, f"cannot be parsed ({type(exc).__name__})") from None
    for reason in _tree_faults(tree):
        raise ExpressionError(text, reason)
    return Expression(text, tree)


def _hint(text: str) -> str:
    return next((f": {hint}" for sign, hint in _HINTS if sign in text), "")


def _text_faults(text: str) -> Iterator[str]:
    """What can be refused before parsing. Python's parser may warn, or need more stack than there is, on such text."""
    if "\x00" in text:
        yield "a NUL character"
    for prefix, literal in _TEXT.findall(text):
        if prefix and not prefix.isdigit() and prefix.lower() in ("b", "br", "rb", "f", "fr", "rf", "u", "r"):
            yield f"{prefix}'…': write the text without {prefix}"
        if any(letter not in _ESCAPES for letter in _ESCAPE.findall(literal)):
            yield "an unknown escape in a text: write \\\\ for a backslash"
    bare = _TEXT.sub(r"\1''", text)
    if found := _NAME_NUMBER.search(bare):
        yield f"{found[0][:40]!r}: write an index in brackets, as in items[0]"
    for number in _NUMBER.findall(bare):
        if _NUMBER_FORM.fullmatch(number) is None:
            yield f"{number[:20]!r} is not a number"
    level = 0
    for sign in bare:
        level += (sign in "([{") - (sign in ")]}")
        if level > MAX_LEVELS:
            yield f"brackets nested deeper than {MAX_LEVELS} levels"
    if _UNARY_RUN.search(bare):
        yield f"nested deeper than {MAX_LEVELS} levels"


def _tree_faults(tree: ast.expr) -> Iterator[str]:
    stack: list[tuple[ast.AST, int]] = [(tree, 1)]
    while stack:
        node, level = stack.pop()
        if level > MAX_LEVELS:
            yield f"nested deeper than {MAX_LEVELS} levels"
        yield from _node_faults(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.Call) and child is node.func:
                continue
            same = isinstance(node, ast.BinOp) and child is node.left and isinstance(child, ast.BinOp)
            stack.append((child, level if same or not isinstance(child, ast.expr) else level + 1))


def _node_faults(node: ast.AST) -> Iterator[str]:
    kind = type(node)
    if isinstance(node, ast.Call):
        yield from _call_faults(node)
    elif isinstance(node, ast.comprehension):
        yield from _comprehension_faults(node)
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, str | int | float | None):
            yield f"{_constant_name(node.value)} is not a JSON value"
    elif isinstance(node, ast.Dict):
        if any(key is None for key in node.keys):
            yield "** is not available"
    elif isinstance(node, ast.keyword | ast.expr_context):
        return
    elif kind not in EXPRESSIONS and kind not in OPERATORS:
        yield f"{_REFUSED.get(kind, kind.__name__)} is not available"


def _constant_name(value: Any) -> str:
    return "..." if value is Ellipsis else f"a {type(value).__name__}"


def _call_faults(node: ast.Call) -> Iterator[str]:
    known = ", ".join(FUNCTIONS)
    if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
        name = node.func.id if isinstance(node.func, ast.Name) else "that"
        yield f"{name}(…) cannot be called; functions are {known}"
        return
    least, most, keywords = FUNCTIONS[node.func.id]
    if not least <= len(node.args) <= most:
        wanted = f"{least} to {most} arguments" if most != least else f"{least} argument{'s' * (least > 1)}"
        yield f"{node.func.id}() takes {wanted}, not {len(node.args)}"
    if any(keyword.arg not in keywords for keyword in node.keywords):
        yield f"{node.func.id}() has no such keyword"


def _comprehension_faults(node: ast.comprehension) -> Iterator[str]:
    if node.is_async:
        yield "async is not available"
    targets: list[ast.expr] = [node.target]
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets.extend(target.elts)
        elif not isinstance(target, ast.Name):
            yield "a comprehension assigns to names only"
        elif target.id in _LITERALS:
            yield f"{target.id} cannot be assigned"
