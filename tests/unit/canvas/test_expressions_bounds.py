"""Nothing escapes from an expression, and every expression ends soon, whatever it is given."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.expressions import compile_expression, evaluate_edge_condition, evaluate_on_document

ROWS = {"items": [{"a": number, "b": "x" * 50, "c": {"d": [number]}} for number in range(10_000)], "text": "y" * 10**6}


@pytest.mark.parametrize(
    "text",
    [
        "().__class__",
        "().__class__.__base__.__subclasses__()",
        "''.__class__.__mro__[1].__subclasses__()",
        "(1).__class__",
        "[].append(1)",
        "text.format(data)",
        "'{0.__class__}'.format(data)",
        "'{0.__class__}' % data",
        "f'{data.__class__}'",
        "F'{data}'",
        "rf'{data}'",
        "text.__init__.__globals__",
        "len.__self__",
        "len.__globals__['__builtins__']",
        "exists.__code__",
        "data.__getattr__('x')",
        "[x for x in [1]].gi_frame",
        "(x for x in [1]).gi_frame.f_back.f_globals",
        "__import__('os').system('true')",
        "__builtins__",
        "globals()",
        "locals()",
        "vars()",
        "getattr(data, 'x')",
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "type(data)",
        "print(1)",
        "lambda: 1",
        "(lambda x: x)(1)",
        "(x := 3)",
        "[y := 1, y]",
        "[(len := 3) for x in [1]]",
        "[x for len.a in [1]]",
        "[x for data['k'] in [1]]",
        "[1 for true in [0]]",
        "{**data}",
        "[*items]",
        "max(*items)",
        "max(**data)",
        "{1, 2}",
        "{x for x in items}",
        "await data",
        "(yield 1)",
        "[x async for x in items]",
        "b'bytes'",
        "...",
        "1j",
        "a; b",
        "import os",
        "data.items = 1",
        "del data",
        "text @ text",
        "len",
        "str",
        "(len if true else str)(1)",
        "[len][0]([1])",
        "data.items()",
        "'a'.join(items)",
        "a\x00b",
    ],
)
def test_no_attempt_to_escape_gets_through(text: str) -> None:
    document = {"data": {"k": 1}, "items": [1], "text": "t", "a": 1, "b": 2, "x": 1, "y": 1}

    with pytest.raises(InvalidConditionError):
        evaluate_on_document(text, document)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9**9**9**9",
        "2**(10**10)",
        "(-7)**99999",
        "1 << 10**9",
        "3 << 5000",
        "10**1200 * 10**1200",
        "'a' * 10**10",
        "10**10 * 'a'",
        "[0] * 10**9",
        "[[0] * 5000] * 5000",
        "text * 9",
        "text + text + text + text + text + text + text + text + text",
        "[text + text for x in items]",
        "[text[1:] for x in items]",
        "[str(items) for x in items]",
        "[str(text) + text for x in items]",
        "[x for x in items for y in items]",
        "[x for x in items for y in items if false]",
        "[sum([y.a for y in items]) for x in items]",
        "[sum(numbers) for x in items for numbers in [[y.a for y in items]]]",
        "[max(items) for x in items]",
        "[sorted(text) for x in items]",
        "[x in items for x in items]",
        "['zz' in text for x in items for y in items]",
        "[items == data.items[:] for x in items]",
        "[text == text[:-1] + 'z' for x in items]",
        "[len([y for y in items]) for x in items]",
        "[data for x in items]",
        "[[[[items] * 99] * 99] * 99] * 99",
        "{str(x.a) + y: data for x in items for y in text}",
        "any([x.a > y.a for x in items for y in items])",
        "round(1, -10**9)",
        "round(10**300, -10**5)",
        "int('9' * 5000)",
        "int(text)",
        "float(text)",
        "str(10**1200 * 10)[0] * 10**8",
        "min([text, text] * 100000)",
    ],
)
def test_a_bomb_is_refused_before_it_goes_off(text: str) -> None:
    with pytest.raises(InvalidConditionError):
        evaluate_on_document(text, ROWS)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "(" * 10_000 + "1" + ")" * 10_000,
        "x" * 1_000_000,
        "[" * 1_000_000,
        "(" * 51 + "1" + ")" * 51,
        "[{'a':" * 30 + "1" + "}]" * 30,
        "not " * 249 + "1",
        "- " * 499 + "1",
        "-" * 999 + "1",
        "~ not - " * 30 + "1",
        "1 if 1 else " * 80 + "1",
        "x" + ".a" * 400,
        "x" + "[0]" * 300,
        "1 ** " * 199 + "1",
        "lambda: " * 120 + "1",
        "a" + " and (a" * 60 + ")" * 60,
        "[x for x in " * 60 + "[]" + "]" * 60,
        "'" * 999,
        '"""' + "(" * 900,
        "0x" * 400,
    ],
)
def test_a_text_that_is_too_long_or_too_deep_is_refused_at_once(text: str) -> None:
    with pytest.raises(InvalidConditionError) as caught:
        compile_expression(text)

    assert len(str(caught.value)) < 1000


def test_brackets_in_a_text_do_not_count() -> None:
    assert evaluate_on_document(f"'{'(' * 200}'", {}) == "(" * 200


def test_fifty_levels_and_long_sums_are_allowed() -> None:
    assert evaluate_on_document("(" * 50 + "1" + ")" * 50, {}) == 1
    assert evaluate_on_document("+".join(["1"] * 500), {}) == 500
    assert evaluate_on_document("[" * 40 + "]" * 40, {})


def test_work_on_thousands_of_rows_fits_the_budget() -> None:
    assert len(evaluate_on_document("[r.a * 2 + 1 for r in items if r.a % 2 == 0]", ROWS)) == 5000
    assert evaluate_on_document("sum([r.a for r in items])", ROWS) == sum(range(10_000))
    assert len(evaluate_on_document("sorted([r.b for r in items])", ROWS)) == 10_000
    assert evaluate_on_document("text", ROWS) == ROWS["text"]


WORDS = (
    "a b data items value input true null len sum min max round sorted any all str int float exists default "
    "( ) [ ] { } , . : + - * / // % ** << >> & | ^ ~ < > == != <= >= in not is and or if else for 'x' \"y\" 0 1 2.5 9 "
    "10000 e __class__ x y lambda := ; f'{a}' \\"
)
words = st.sampled_from([*WORDS.split(), "\n"])
expressions = (
    st.lists(words, max_size=25).map(" ".join) | st.text(max_size=60) | st.lists(words, max_size=25).map("".join)
)
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abxy") | st.text(max_size=2), inner),
    max_leaves=15,
)


@pytest.mark.timeout(120)
@example("[" + "[x for x in a]," * 40 + "]", {"a": [1] * 1000})
@example("1" + "_" * 100, {})
@example("0777", {})
@example("'\ud800'", {})
@example("str('\\ud800' + a)", {"a": "x"})
@example("str([a])", {"a": "\ud800"})
@example("a ** b", {"a": 10**400, "b": 3})
@example("a * b", {"a": 10.0**300, "b": 10**400})
@example("int(a)", {"a": float("inf")})
@example("round(a)", {"a": float("nan")})
@example("{a: 1}[b]", {"a": "k", "b": []})
@example("a in b", {"a": [], "b": {}})
@given(expressions, documents)
def test_any_text_over_any_document_ends_with_a_value_or_our_own_error(text: str, document: Any) -> None:
    for evaluate in (evaluate_on_document, lambda text, doc: evaluate_edge_condition(text, doc, doc)):
        with suppress(InvalidConditionError):
            evaluate(text, document)


def refuse(*shown: object, **more: object) -> None:
    raise AssertionError(f"warned: {shown}")


@example("'\\d'")
@example("1if a else 2")
@example("0xfor x in [1]")
@example("1or 2")
@example("1.or 2")
@example("1 is 1")
@example("A.0in")
@example("a.b.0if")
@example("'a' is 'a'")
@example("[1](2)")
@example("'\\400'")
@given(expressions)
def test_no_text_makes_the_parser_warn(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = refuse
        with suppress(InvalidConditionError):
            compile_expression(text)


def test_evaluation_in_many_threads_leaves_the_warning_filters_alone() -> None:
    before = list(warnings.filters)
    barrier = threading.Barrier(8)

    def evaluate(number: int) -> list[int]:
        barrier.wait()
        return [evaluate_on_document("[x + n for x in items]", {"items": [1], "n": number})[0] for _ in range(200)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(evaluate, range(8)))

    assert results == [[number + 1] * 200 for number in range(8)]
    assert warnings.filters == before
