"""What expressions mean: names, keys, operators, functions, comprehensions, edge conditions."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.expressions import compile_expression, evaluate_edge_condition, evaluate_on_document

DOCUMENT: dict[str, Any] = {
    "status": "open",
    "count": 3,
    "rate": 2.5,
    "urgent": True,
    "nothing": None,
    "sum": 7,
    "user": {"name": "Ada", "tags": ["a", "b"], "__class__": "person", "first name": "A"},
    "lines": [{"amount": 3, "name": "x"}, {"amount": 4.5, "name": "y"}],
    "pairs": [["a", 1], ["b", 2]],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status", "open"),
        ("status == 'open'", True),
        ('status != "open"', False),
        ("count + 1", 4),
        ("count / 2", 1.5),
        ("count // 2", 1),
        ("count ** 2 % 5", 4),
        ("-count + 10", 7),
        ("2 < count <= 3", True),
        ("urgent and not nothing", True),
        ("nothing or status", "open"),
        ("'high' if urgent else 'low'", "high"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("nothing is null", True),
        ("None", None),
        ("1 if True else 2", 1),
        ("1_000", 1000),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("0xff", 255),
        ("6 & 3 | 8 ^ 1", 11),
        ("1 << 4 >> 1", 8),
        ("~1", -2),
        ("user.name", "Ada"),
        ("user['first name']", "A"),
        ("user.__class__", "person"),
        ("lines[0].amount", 3),
        ("lines[-1]['amount']", 4.5),
        ("user.name[0:2]", "Ad"),
        ("user.tags[::-1]", ["b", "a"]),
        ("'a' in user.tags", True),
        ("'z' not in user", True),
        ("'pe' in status", True),
        ("'a' 'b' + \"c\"", "abc"),
        ("'tab\\t'", "tab\t"),
        ("[1, 2] + [3]", [1, 2, 3]),
        ("(1, 2)", [1, 2]),
        ("{'a': count, 'b': {'c': []}}", {"a": 3, "b": {"c": []}}),
        ("[l.amount for l in lines]", [3, 4.5]),
        ("[l.name for l in lines if l.amount > 3 if true]", ["y"]),
        ("[x + y for x in [1, 2] for y in [10, 20]]", [11, 21, 12, 22]),
        ("[[x * y for x in [1, 2]] for y in [1, 2]]", [[1, 2], [2, 4]]),
        ("[x for x in [y for y in user.tags]]", ["a", "b"]),
        ("[k for k in user.tags for user in [1]]", ["a", "b"]),
        ("{k: v for k, v in pairs}", {"a": 1, "b": 2}),
        ("[key for key in {'a': 1}]", ["a"]),
        ("[c for c in 'ab']", ["a", "b"]),
        ("len(lines) + len(status) + len(user)", 10),
        ("sum([l.amount for l in lines])", 7.5),
        ("sum([], 5)", 5),
        ("sum", 7),
        ("min(3, count, 9)", 3),
        ("max([l.amount for l in lines])", 4.5),
        ("min([], default=0)", 0),
        ("round(2.567, 2)", 2.57),
        ("round(2.5)", 2),
        ("sorted([3, 1, 2])", [1, 2, 3]),
        ("sorted([3, 1, 2], reverse=true)", [3, 2, 1]),
        ("any(l.amount > 4 for l in lines)", True),
        ("all([])", True),
        ("str(count) + str(rate) + str('x')", "32.5x"),
        ("str([true, null, {'a': 1}])", '[true,null,{"a":1}]'),
        ("int('12') + int(3.9) + int(true)", 16),
        ("float('1.5')", 1.5),
        (" \n count ", 3),
        ("(count\n + 1)", 4),
    ],
)
def test_expressions_have_the_value_that_python_would_give(text: str, expected: Any) -> None:
    found = evaluate_on_document(text, DOCUMENT)

    assert found == expected
    assert type(found) is type(expected)


def test_the_document_is_data_input_and_value_unless_it_has_such_a_key() -> None:
    assert evaluate_on_document("data.items", {"items": [1]}) == [1]
    assert evaluate_on_document("data.items", {"data": {"items": [2]}}) == [2]
    assert evaluate_on_document("input.a + value.a", {"a": 2}) == 4
    assert evaluate_on_document("len(data)", [1, 2, 3]) == 3
    assert evaluate_on_document("value * 2", 21) == 42


def test_data_cannot_redefine_true_false_and_null() -> None:
    assert evaluate_on_document("true and not false and null is None", {"true": 0, "false": 1, "null": 2}) is True


def test_a_variable_of_a_comprehension_hides_a_key_and_ends_with_it() -> None:
    assert evaluate_on_document("[count for count in [9]] + [count]", DOCUMENT) == [9, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exists(count)", True),
        ("exists(nothing)", True),
        ("exists(missing)", False),
        ("exists(user.missing)", False),
        ("exists(nothing.deeper.still)", False),
        ("exists(lines[7])", False),
        ("exists(user['x'])", False),
        ("default(missing, 5)", 5),
        ("default(nothing, 5)", None),
        ("default(count, missing)", 3),
        ("default(default(missing, gone), 'last')", "last"),
        ("[default(l.note, l.name) for l in lines]", ["x", "y"]),
        ("default([[q.gone for q in [l]] for l in lines], 'none')", "none"),
        ("[default([q.gone for q in [l]], l.name) for l in lines]", ["x", "y"]),
    ],
)
def test_exists_and_default_forgive_what_is_missing(text: str, expected: Any) -> None:
    assert evaluate_on_document(text, DOCUMENT) == expected


@pytest.mark.parametrize("text", ["exists(1 / 0)", "default(count.x, 1)", "default('a' + 1, 1)", "exists(count[0])"])
def test_exists_and_default_forgive_nothing_else(text: str) -> None:
    with pytest.raises(InvalidConditionError) as caught:
        evaluate_on_document(text, DOCUMENT)

    assert not caught.value.missing


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("missing", "unknown name 'missing'"),
        ("user.missing", "no key 'missing'"),
        ("user['missing']", "no key 'missing'"),
        ("nothing.x", "no key 'x'"),
        ("lines[9]", "index out of range of a list"),
        ("status[9]", "index out of range of text"),
    ],
)
def test_what_is_missing_is_an_error_that_says_so(text: str, reason: str) -> None:
    with pytest.raises(InvalidConditionError, match=reason.replace("(", r"\(")) as caught:
        evaluate_on_document(text, DOCUMENT)

    assert caught.value.missing
    assert caught.value.condition == text
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("status.upper", "text has no key 'upper'"),
        ("count.real", "a number has no key 'real'"),
        ("user[0]", "an object has no items by a number"),
        ("lines['amount']", "a list has items by number, not by text"),
        ("status + 1", "can only concatenate str"),
        ("status < 3", "not supported between"),
        ("1 / 0", "division by zero"),
        ("len(3)", "a number has no items"),
        ("[x for x in 3]", "a number has no items"),
        ("[a for a, b in [[1]]]", "2 names need a list"),
        ("{1: 2}", "the keys of an object are text"),
        ("{x: 1 for x in [1]}", "the keys of an object are text"),
        ("int('3x')", "text that is no such number"),
        ("float([])", "takes a number or text, not a list"),
        ("sum(['a'])", "adds numbers only"),
        ("max([])", "of nothing"),
        ("1e308 * 10", "no JSON number"),
        ("float('nan')", "no JSON number"),
        ("(-8) ** 0.5", "no real number"),
        ("'%d' % 3", "does not format text"),
    ],
)
def test_a_value_that_cannot_be_had_is_an_error_that_says_why(text: str, reason: str) -> None:
    with pytest.raises(InvalidConditionError, match=reason):
        evaluate_on_document(text, DOCUMENT)


def test_errors_never_show_data() -> None:
    document = {"secret": "hunter2", "object": {"hunter2": 1}}

    for text in ("int(secret)", "secret.x", "secret < 1", "object[secret].x", "data[secret + 'x']", "float(secret)"):
        with pytest.raises(InvalidConditionError) as caught:
            evaluate_on_document(text, document)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("a ==", "invalid syntax"),
        ("(a", "was never closed"),
        ("a = 3", "invalid syntax"),
        ("lines[*].amount", r"write \[item.name for item in items\]"),
        ("$.a", "write data instead of"),
        ("a && b", "write and"),
        ("status contains 'x'", "write 'part' in text"),
        ("status startswith 'x'", r"write text\[:3\]"),
        ("upper(status)", "upper.* cannot be called; functions are len, sum"),
        ("len()", "takes 1 argument, not 0"),
        ("round(1, 2, 3)", "takes 1 to 2 arguments, not 3"),
        ("sorted(lines, key=1)", "no such keyword"),
        ("'\\d'", "unknown escape"),
        ("1if a else 2", "'1if' is not a number"),
    ],
)
def test_what_does_not_parse_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(InvalidConditionError, match=hint):
        compile_expression(text)


def test_an_expression_is_text() -> None:
    with pytest.raises(InvalidConditionError, match="is text"):
        compile_expression([])  # type: ignore[arg-type]


def test_names_on_an_edge_are_keys_of_the_output_then_of_what_the_edge_carries() -> None:
    output = {"true": {"score": 1, "a": 1}, "a": 2}

    assert evaluate_edge_condition("a == 2 and score == 1", output, output["true"])
    assert evaluate_edge_condition("output.a == 2 and result == output", output, output["true"])
    assert evaluate_edge_condition("value.a == 1 and data == input", output, output["true"])
    assert evaluate_edge_condition("output == 5", {"output": 5}, None)
    assert evaluate_edge_condition("value > 3", 4, 4)


def test_a_condition_is_true_as_python_says_and_never_by_default() -> None:
    assert evaluate_edge_condition("items", {"items": [0]}, None) is True
    assert evaluate_edge_condition("items", {"items": []}, None) is False
    with pytest.raises(InvalidConditionError):
        evaluate_edge_condition("approved", {"status": "ok"}, {"status": "ok"})
    with pytest.raises(InvalidConditionError):
        evaluate_edge_condition("approved", "plain text", "plain text")


scalars = st.none() | st.booleans() | st.integers(-100, 100) | st.text("ab", max_size=3)
numbers = st.integers(-50, 50).map(str) | st.sampled_from(["x", "y", "1.5"])


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "//", "%", "<", "==", ">=", "and", "or", "!=", "|", "&", "^"])
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} if {parts[1]} else {parts[2]})"),
        st.tuples(st.sampled_from(["not", "-", "+"]), inner).map(lambda parts: f"({parts[0]} {parts[1]})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"max([{', '.join(parts)}])"),
        inner.map(lambda part: f"sum([k * 2 for k in [{part}, 1] if k > 0])"),
        inner.map(lambda part: f"len([{part}, {part}])"),
    )


@given(st.recursive(numbers, _combined, max_leaves=12), st.integers(-9, 9), st.integers(-9, 9))
def test_arithmetic_agrees_with_python(text: str, x: int, y: int) -> None:
    try:
        expected = eval(text, {"__builtins__": {"max": max, "sum": sum, "len": len}}, {"x": x, "y": y})
    except (ZeroDivisionError, TypeError):
        with pytest.raises(InvalidConditionError):
            evaluate_on_document(text, {"x": x, "y": y})
    else:
        assert evaluate_on_document(text, {"x": x, "y": y}) == expected


@given(st.dictionaries(st.text("abc", min_size=1, max_size=2), scalars | st.lists(scalars, max_size=3), max_size=4))
def test_evaluation_leaves_the_document_alone(document: dict[str, Any]) -> None:
    before = repr(document)

    for text in ("data", "[x for x in data]", "default(a, 1)", "{'k': data}", "str(data)"):
        evaluate_on_document(text, document)

    assert repr(document) == before
