from __future__ import annotations

from typing import Any

import pytest

from llmteam.canvas.builtin_types import BUILTIN_TYPES
from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.handlers import BUILTIN_HANDLERS, condition, parallel_join, parallel_split, transform
from llmteam.canvas.handlers.document import document
from llmteam.canvas.ports import Ports
from llmteam.runtime.context import RuntimeContext, StepContext


def context(*inputs: str, **fields: Any) -> StepContext:
    return RuntimeContext("acme", "i", "r", "s").child_context("step", inputs=inputs, **fields)


CTX = context("input")


@pytest.mark.parametrize(
    ("inputs", "given", "found"),
    [
        (("input",), {"input": 5}, 5),
        (("input",), {"input": {"input": 5}}, {"input": 5}),
        (("input",), {"amount": 5}, {"amount": 5}),
        (("input",), {"input": 5, "amount": 6}, {"input": 5, "amount": 6}),
        (("data", "input"), {"data": [1]}, [1]),
        (("data",), {"input": 5}, {"input": 5}),
        ((), {"input": 5}, 5),
        (("input",), {}, {}),
        (("input",), [1], [1]),
        (("input",), None, None),
    ],
)
def test_the_document_is_the_value_of_the_one_port_reached_else_the_whole_input(
    inputs: tuple[str, ...], given: Any, found: Any
) -> None:
    assert document(context(*inputs), given) == found


def test_a_condition_hands_its_document_on_unchanged_through_true_or_false() -> None:
    value = {"amount": 500, "true": "no port"}
    assert condition(CTX, {"expression": "amount > 100"}, {"input": value}) == {"true": value}
    assert condition(CTX, {"expression": "amount > 1000"}, {"input": value}) == {"false": value}


def test_a_condition_that_cannot_be_answered_takes_no_port() -> None:
    with pytest.raises(InvalidConditionError) as caught:
        condition(CTX, {"expression": "missing > 1"}, {"input": {}})
    assert caught.value.missing
    with pytest.raises(InvalidConditionError) as caught:
        condition(CTX, {"expression": "a > 1"}, {"input": {"a": "x"}})
    assert not caught.value.missing


def test_a_transform_gives_its_expressions_value_and_passes_on_without_one() -> None:
    value = {"lines": [{"amount": 2}, {"amount": 3}]}
    assert transform(CTX, {"expression": "sum([l.amount for l in lines])"}, {"input": value}) == {"output": 5}
    assert transform(CTX, {}, {"input": value}) == {"output": value}


def test_the_mapping_of_a_transform_wins_over_its_expression() -> None:
    config = {"mapping": {"first": "items[0]", "all": "data"}, "expression": "1"}
    value = {"items": [7]}
    assert transform(CTX, config, {"input": value}) == {"output": {"first": 7, "all": value}}


def test_a_default_stands_in_for_what_is_missing_and_for_no_other_fault() -> None:
    assert transform(CTX, {"expression": "a.b", "default": 0}, {"input": {"a": {}}}) == {"output": 0}
    assert transform(CTX, {"expression": "a.b", "default": None}, {"input": {}}) == {"output": None}
    mapping = {"mapping": {"x": "a", "y": "b", "z": "c[5]"}, "default": []}
    assert transform(CTX, mapping, {"input": {"a": None, "c": [1]}}) == {"output": {"x": None, "y": [], "z": []}}
    for expression in ("a + 'x'", "1 / 0", "9**9**9"):
        with pytest.raises(InvalidConditionError):
            transform(CTX, {"expression": expression, "default": 0}, {"input": {"a": 1}})
    with pytest.raises(InvalidConditionError):
        transform(CTX, {"expression": "a.b"}, {"input": {"a": {}}})


def test_a_split_broadcasts_its_document() -> None:
    assert parallel_split(CTX, {"branches": 3}, {"input": [1, 2]}).value == [1, 2]


def test_a_join_lists_what_arrived_in_the_order_of_its_ports() -> None:
    ctx = context("late", "early")
    assert parallel_join(ctx, {}, {"early": 1, "late": 2}) == {"output": [2, 1]}
    assert parallel_join(ctx, {"merge_strategy": "any"}, {"early": 1}) == {"output": [1]}
    assert parallel_join(ctx, {"merge_strategy": "first"}, {"early": 1, "late": 2}) == {"output": [2]}
    assert parallel_join(ctx, {}, {"late": None}) == {"output": [None]}


def test_numbered_branches_that_are_not_declared_come_in_numeric_order_behind_declared_ones() -> None:
    given = {"other": 0, "branch_10": 10, "branch_2": 2, "branch_1": 1, "branch_3": 3}
    assert parallel_join(context("branch_1", "branch_2"), {}, given) == {"output": [1, 2, 3, 10, 0]}


def test_a_join_of_ten_thousand_branches_takes_no_time_to_speak_of() -> None:
    ports = [f"branch_{number}" for number in range(1, 10_001)]
    answer = parallel_join(context(*ports), {}, dict.fromkeys(reversed(ports), 1))
    assert len(answer["output"]) == 10_000


def test_a_join_that_is_the_entrypoint_lists_the_runs_input() -> None:
    assert parallel_join(context("branch_1", "branch_2"), {}, "text") == {"output": ["text"]}


def test_every_built_in_type_has_a_handler() -> None:
    assert set(BUILTIN_HANDLERS) == {metadata.type_id for metadata, _ in BUILTIN_TYPES}
    assert isinstance(transform(CTX, {}, None), Ports)
