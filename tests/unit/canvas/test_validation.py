"""Full validation: every finding with severity, code and path; sound segments have none; large ones are quick."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from hypothesis import given

from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.exceptions import SegmentValidationError
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.runner import SegmentRunner
from llmteam.canvas.validation import SegmentValidator, ValidationResult, validate_segment, validate_segment_dict
from tests.strategies import segments


def answer(*_: Any) -> None: ...


@pytest.fixture(scope="module")
def catalog() -> StepCatalog:
    return StepCatalog(dict.fromkeys(StepCatalog().list_type_ids(), answer))


def step(step_id: str, step_type: str = "transform", **config: Any) -> dict[str, Any]:
    return {"step_id": step_id, "step_type": step_type, "config": config}


def edge(way: str, condition: str | None = None) -> dict[str, Any]:
    """``a.true -> b.body``; a port that is not named is the default one."""
    ends = [part.strip().split(".") for part in way.split("->")]
    made = {"from": ends[0][0], "to": ends[1][0], "condition": condition}
    if len(ends[0]) > 1:
        made["from_port"] = ends[0][1]
    if len(ends[1]) > 1:
        made["to_port"] = ends[1][1]
    return made


def document(steps: list[dict[str, Any]], edges: tuple[Any, ...] = (), **more: Any) -> dict[str, Any]:
    drawn = [edge(one) if isinstance(one, str) else edge(*one) for one in edges]
    return {"segment_id": "s", "name": "S", "steps": steps, "edges": drawn, **more}


def found(result: ValidationResult) -> list[tuple[str, str, str]]:
    return [(message.severity.value, message.code, message.path) for message in result.messages]


AB = [step("a"), step("b")]
IF = [step("c", "condition", expression="x"), step("a"), step("b")]
SPLIT = [step("s", "parallel_split"), step("a"), step("b"), step("j", "parallel_join")]
BRANCHES = ("s.branch_1 -> a", "s.branch_2 -> b")


@pytest.mark.parametrize(
    ("given_document", "expected"),
    [
        ({"name": "S", "steps": [{"step_id": 1}]}, [
            ("error", "MISSING_FIELD", "segment_id"),
            ("error", "INVALID_TYPE", "steps[0].step_id"),
            ("error", "MISSING_FIELD", "steps[0].step_type"),
        ]),
        (document([]), [("error", "EMPTY_SEGMENT", "steps")]),
        (document([step("a"), step("a")]), [("error", "DUPLICATE_ID", "steps[0].step_id")]),
        (document([step("A")]), [("error", "INVALID_ID_FORMAT", "steps[0].step_id")]),
        (document([step("a")], ("a -> x",)), [("error", "INVALID_REFERENCE", "edges[0].target_step")]),
        (document([step("a")], entrypoint="x"), [("error", "INVALID_ENTRYPOINT", "entrypoint")]),
        (document([step("a", "nope")]), [("error", "UNKNOWN_TYPE", "steps[0].step_type")]),
        (document([step("a", "condition")]), [("error", "SCHEMA_VIOLATION", "steps[0].config.expression")]),
        (document([step("a", "http_action", client_ref="c")]), [("error", "SCHEMA_VIOLATION", "steps[0].config")]),
        (document([step("a", retry_count=-1)]), [("error", "INVALID_VALUE", "steps[0].config.retry_count")]),
        (document([step("a", expression="x +")]), [("error", "BAD_EXPRESSION", "steps[0].config.expression")]),
        (document([step("a", mapping={"k": "x["})]), [("error", "BAD_EXPRESSION", "steps[0].config.mapping.k")]),
        (document([step("a", expresion="x")]), [("warning", "UNKNOWN_CONFIG_KEY", "steps[0].config.expresion")]),
        (document(AB, (("a -> b", "x >"),)), [("error", "BAD_CONDITION", "edges[0].condition")]),
        (document(AB, ("a.nope -> b",)), [("warning", "UNKNOWN_PORT", "edges[0].source_port")]),
        (document(AB, ("a -> b.nope",)), [("warning", "UNKNOWN_PORT", "edges[0].target_port")]),
        (document(AB, ("a.error -> b",)), []),
        (document(IF, ("c -> a", "c.false -> b")), [("error", "UNKNOWN_PORT", "edges[0].source_port")]),
        (document(IF, ("c.true -> a", "c.maybe -> b")), [("error", "UNKNOWN_PORT", "edges[1].source_port")]),
        (document(IF, ("c.true -> a", "c.error -> b")), []),
        (document([step("h", "human_task", task_type="approval"), step("b")], ("h.aproved -> b",)), [
            ("error", "UNKNOWN_PORT", "edges[0].source_port"),
        ]),
        (document(AB), [
            ("warning", "MISSING_ENTRYPOINT", "entrypoint"),
            ("warning", "UNREACHABLE_STEP", "steps[1]"),
        ]),
        (document(AB, entrypoint="b"), [("warning", "UNREACHABLE_STEP", "steps[0]")]),
        (document(AB, ("a -> b", "b -> a")), [
            ("warning", "MISSING_ENTRYPOINT", "entrypoint"),
            ("error", "CYCLE_WITHOUT_EXIT", "steps[0]"),
        ]),
        (document(AB, ("a -> b", ("b -> a", "again")), entrypoint="a"), []),
        (document(AB, ("a -> b", ("b -> b", "again")), entrypoint="a"), [("warning", "SELF_LOOP", "edges[1]")]),
        (document(IF, ("c.true -> a", "c.false -> b", ("a -> b", "x"), ("b -> a", "x")), entrypoint="c"), [
            ("error", "IRREDUCIBLE_LOOP", "edges[2]"),
        ]),
        (document(SPLIT, (*BRANCHES, "a -> j.branch_1", "b -> j.branch_2")), []),
        (document(SPLIT, (*BRANCHES, "a -> j", "b -> j")), [
            ("warning", "DUPLICATE_PORT_INPUT", "edges[3].target_port"),
        ]),
        (document(SPLIT, ("s -> a", "s.branch_3 -> b", "a -> j.branch_1", "b -> j.branch_7")), [
            ("error", "UNKNOWN_PORT", "edges[0].source_port"),
            ("error", "UNKNOWN_PORT", "edges[1].source_port"),
        ]),
        (document(IF, ("c.true -> a", "c.false -> b", "a -> b")), []),
    ],
)  # fmt: skip
def test_each_fault_has_its_code_and_place(
    catalog: StepCatalog, given_document: Any, expected: list[tuple[str, str, str]]
) -> None:
    result = validate_segment_dict(given_document, catalog)

    assert sorted(found(result)) == sorted(expected)
    assert result.is_valid is all(severity != "error" for severity, _, _ in expected)


@pytest.mark.parametrize(
    ("join", "edges", "fault"),
    [
        (step("j", "parallel_join"), BRANCHES, "no branch reaches join 'j'"),
        (step("j", "parallel_join", branches=3), (*BRANCHES, "a -> j.branch_1", "b -> j.branch_2"), "branch_3"),
        (
            {**step("j", "parallel_join"), "inputs": ["left", "right"]},
            (*BRANCHES, "a -> j.left"),
            "no edge brings what join 'j' requires: right",
        ),
    ],
)
def test_a_join_that_can_never_be_satisfied_is_an_error(
    catalog: StepCatalog, join: dict[str, Any], edges: tuple[str, ...], fault: str
) -> None:
    (error,) = validate_segment_dict(document([*SPLIT[:3], join], edges, entrypoint="s"), catalog).errors

    assert (error.code, error.path) == ("JOIN_NEVER_SATISFIED", "steps[3]")
    assert fault in error.message


@pytest.mark.parametrize(
    "join",
    [
        step("j", "parallel_join", branches=3, merge_strategy="any"),
        {**step("j", "parallel_join"), "inputs": ["branch_1", {"port_id": "extra", "required": False}]},
    ],
)
def test_a_join_may_do_without_what_it_does_not_require(catalog: StepCatalog, join: dict[str, Any]) -> None:
    given_document = document([*SPLIT[:3], join], (*BRANCHES, "a -> j.branch_1", "b -> j.branch_2"))

    assert validate_segment_dict(given_document, catalog).errors == []


def test_edges_that_exclude_each_other_may_share_a_port(catalog: StepCatalog) -> None:
    steps = [step("c", "condition", expression="x"), step("h", "human_task", task_type="approval"), step("b")]
    edges = ("c.true -> h.data", "c.false -> b", "h.approved -> b", "h.modified -> b", "h.error -> b")

    assert validate_segment_dict(document(steps, edges), catalog).messages == []


def test_conditions_of_one_port_exclude_each_other(catalog: StepCatalog) -> None:
    steps = [step("a"), step("x"), step("y"), step("z")]
    edges = (("a -> x", "p"), ("a -> y", "q"), "a -> z", "x -> z", "y -> z")

    assert validate_segment_dict(document(steps, edges), catalog).messages == []


def test_a_close_name_is_suggested(catalog: StepCatalog) -> None:
    result = validate_segment_dict(document([step("a", "transfrom"), step("b", expresion="x")], ("a -> b",)), catalog)

    assert [message.suggestion for message in result.messages] == [
        "did you mean 'transform'?",
        "did you mean 'expression'?",
    ]
    assert "did you mean 'transform'?" in str(result.messages[0])


def test_a_type_without_a_handler_is_a_warning() -> None:
    (message,) = validate_segment_dict(document([step("a")]), StepCatalog()).messages

    assert (message.severity.value, message.code) == ("warning", "NO_HANDLER")


def test_types_of_the_caller_count_as_known(catalog: StepCatalog) -> None:
    segment = SegmentDefinition.from_dict(document([step("a", "mine")]))

    assert SegmentValidator(catalog, known=["mine"]).validate(segment).messages == []


def test_an_unknown_type_is_a_warning_when_workers_may_know_it(catalog: StepCatalog) -> None:
    segment = SegmentDefinition.from_dict(document([step("a", "mine")]))

    result = SegmentValidator(catalog).validate(segment, strict=False)

    assert found(result) == [("warning", "UNKNOWN_TYPE", "steps[0].step_type")]


def test_a_result_is_json_and_raises_with_all_errors(catalog: StepCatalog) -> None:
    result = validate_segment_dict(document([step("A"), step("b", "nope")]), catalog)

    shown = result.to_dict()
    assert (shown["is_valid"], shown["error_count"], shown["warning_count"]) == (False, 2, 2)
    assert shown["messages"][0]["path"] == "steps[0].step_id"
    with pytest.raises(SegmentValidationError) as caught:
        result.raise_if_invalid()
    assert len(caught.value.errors) == 2
    assert caught.value.result is result
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.errors == caught.value.errors
    assert again.result == result


def test_an_information_makes_nothing_invalid() -> None:
    result = ValidationResult()

    result.add_info("NOTE", "by the way")

    assert result.is_valid
    assert (result.errors, result.warnings) == ([], [])
    result.raise_if_invalid()


@given(segments(max_leaves=12))
def test_segments_that_are_built_from_sound_blocks_are_sound(made: SegmentDefinition) -> None:
    catalog = StepCatalog()

    assert validate_segment(made, catalog).errors == []
    assert made.validate() == []


@pytest.mark.timeout(20)
def test_five_thousand_steps_in_a_row_are_validated_without_recursion(catalog: StepCatalog) -> None:
    steps = [step(f"s{n}", "condition" if n % 2 else "transform", expression="data.x") for n in range(5000)]
    edges = tuple(f"s{n}{'.true' if n % 2 else ''} -> s{n + 1}" for n in range(4999))

    assert validate_segment_dict(document(steps, edges), catalog).messages == []


@pytest.mark.parametrize(
    ("steps", "edges", "told"),
    [
        ([step("a", expression="x +")], (), "steps[0].config.expression: invalid syntax"),
        ([step("a", "llm_agent")], (), "steps[0].config: needs llm_ref or model"),
        ([step("a", "condition", expression="true"), step("b")], ("a.maybe -> b",), "has no output port 'maybe'"),
        (AB, ("a -> b", "b -> a"), "cycle a -> b -> a never ends"),
    ],
)
def test_a_segment_lists_itself_whatever_a_runner_would_refuse_it_for(
    steps: list[dict[str, Any]], edges: tuple[str, ...], told: str
) -> None:
    made = SegmentDefinition.from_dict(document(steps, edges))

    with pytest.raises(SegmentValidationError) as refused:
        asyncio.run(SegmentRunner().run(made, input_data={}))

    assert made.validate() == refused.value.errors
    assert told in made.validate()[0]


def test_a_type_that_only_workers_know_is_no_problem_of_the_segment() -> None:
    made = SegmentDefinition.from_dict(document([step("a", "known_elsewhere", anything=1)]))

    assert made.validate() == []


# Seconds of work, which are a minute on a machine that is busy with other things.
@pytest.mark.timeout(240)
def test_ten_thousand_branches_are_validated(catalog: StepCatalog) -> None:
    count = 10_000
    branches = [step(f"b{n}", expression="data.x") for n in range(1, count + 1)]
    steps = [step("s", "parallel_split", branches=count), *branches, step("j", "parallel_join", branches=count)]
    heads = [f"s.branch_{n} -> b{n}" for n in range(1, count + 1)]
    tails = [f"b{n} -> j.branch_{n}" for n in range(1, count + 1)]

    assert validate_segment_dict(document(steps, (*heads, *tails)), catalog).messages == []
    crowded = [f"b{n} -> j" for n in range(1, count + 1)]
    messages = validate_segment_dict(document(steps, (*heads, *crowded)), catalog).messages
    assert {message.code for message in messages} == {"DUPLICATE_PORT_INPUT", "JOIN_NEVER_SATISFIED"}
