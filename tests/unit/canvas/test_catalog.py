"""The catalog: nine built-in types, configuration schemas, types of users, the process's own instance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llmteam.canvas.catalog import PortSpec, StepCatalog, StepCategory, StepTypeMetadata, step_type
from llmteam.canvas.exceptions import InvalidStepTypeError, StepTypeExistsError

BUILTIN = [
    *("llm_agent", "team", "http_action", "human_task", "condition", "parallel_split", "parallel_join", "transform"),
    "action",
]


@pytest.fixture
def catalog() -> StepCatalog:
    return StepCatalog()


@pytest.fixture
def fresh_instance() -> Iterator[None]:
    StepCatalog.reset_instance()
    yield
    StepCatalog.reset_instance()


def answer(ctx: Any, config: dict[str, Any], input_data: Any) -> Any:
    return input_data


def metadata(type_id: str, **more: Any) -> StepTypeMetadata:
    return StepTypeMetadata(type_id, "1.0", "Mine", "", StepCategory.UTILITY, **more)


def test_nine_types_are_built_in(catalog: StepCatalog) -> None:
    assert catalog.list_type_ids() == BUILTIN
    assert [found.type_id for found in catalog.list_types()] == BUILTIN
    assert {found.version for found in catalog.list_types()} == {"1.0"}


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        (StepCategory.AI, ["llm_agent", "team"]),
        (StepCategory.INTEGRATION, ["http_action", "action"]),
        (StepCategory.HUMAN, ["human_task"]),
        (StepCategory.CONTROL, ["condition", "parallel_split", "parallel_join"]),
        (StepCategory.UTILITY, ["transform"]),
        (StepCategory.DATA, []),
    ],
)
def test_types_are_listed_by_category(catalog: StepCatalog, category: StepCategory, expected: list[str]) -> None:
    assert [found.type_id for found in catalog.list_types(category=category)] == expected


def test_a_type_presents_itself(catalog: StepCatalog) -> None:
    agent = catalog.get_type("llm_agent")

    assert agent is not None
    assert (agent.display_name, agent.icon, agent.color) == ("LLM Agent", "robot", "#4A90D9")
    assert agent.config_schema["properties"]["temperature"]["default"] == 0.7
    assert catalog.get_type("gone") is None


@pytest.mark.parametrize(
    ("type_id", "inputs", "outputs", "routing", "kind", "queue"),
    [
        ("llm_agent", ("input",), ("output", "error"), False, "step", "llmteam.llm"),
        ("team", ("input",), ("output", "limit", "escalated"), True, "step", "llmteam.llm"),
        ("http_action", ("body", "input"), ("output", "response", "status"), False, "step", "llmteam.io"),
        ("human_task", ("data",), ("approved", "rejected", "modified", "timeout"), True, "step", "llmteam.control"),
        ("condition", ("input",), ("true", "false"), True, "step", "llmteam.io"),
        ("parallel_split", ("input",), ("branch_1", "branch_2"), True, "split", "llmteam.io"),
        ("parallel_join", ("branch_1", "branch_2"), ("output",), False, "join", "llmteam.io"),
        ("transform", ("input",), ("output",), False, "step", "llmteam.io"),
    ],
)
def test_the_engine_gets_the_facts_of_each_type(
    catalog: StepCatalog, type_id: str, inputs: Any, outputs: Any, routing: bool, kind: str, queue: str
) -> None:
    facts = catalog.facts(type_id)

    assert facts is not None
    assert (facts.inputs, facts.outputs, facts.routing, facts.kind, facts.queue) == (
        inputs,
        outputs,
        routing,
        kind,
        queue,
    )


@pytest.mark.parametrize(
    ("type_id", "config"),
    [
        ("llm_agent", {"model": "gpt-4"}),
        ("llm_agent", {"llm_ref": "main", "temperature": 2, "retry_count": 0, "timeout_seconds": 0.5}),
        ("team", {"agents": [{"name": "a"}]}),
        ("team", {"agents": [{"name": "a"}], "strategy": {"rules": [{"when": "true", "decision": "end"}]}}),
        ("http_action", {"url": "https://api.example.com/data", "method": "GET"}),
        ("http_action", {"client_ref": "crm", "path": "/people", "headers": {"Accept": "text/plain"}}),
        ("human_task", {"task_type": "choice", "choices": ["a", "b"]}),
        ("condition", {"expression": "len(data.items) > 2"}),
        ("parallel_split", {}),
        ("parallel_split", {"branches": 10_000}),
        ("parallel_split", {"branches": ["left", "right"]}),
        ("parallel_join", {"merge_strategy": "first"}),
        ("transform", {}),
        ("transform", {"mapping": {"a": "b.c", "d": "[x for x in e]"}, "default": None}),
        ("transform", {"expression": "data.items", "not_ours": 1}),
    ],
)
def test_a_configuration_that_fits_has_no_faults(catalog: StepCatalog, type_id: str, config: dict[str, Any]) -> None:
    assert catalog.validate_step_config(type_id, config) == []
    assert catalog.validate_config(type_id, config) is True


@pytest.mark.parametrize(
    ("type_id", "config", "expected"),
    [
        ("llm_agent", {"temperature": 0.7}, ["needs llm_ref or model"]),
        ("llm_agent", {"model": "m", "temperature": 3}, ["temperature: should be at most 2"]),
        ("llm_agent", {"model": "m", "max_tokens": 1.5}, ["max_tokens: should be a whole number"]),
        ("llm_agent", {"model": "m", "output_schema": {"type": "objekt"}}, ["output_schema.type: is not JSON Schema"]),
        ("http_action", {}, ["needs url or client_ref and path"]),
        (
            "http_action",
            {"url": "u", "method": "BREW"},
            ["method: should be one of GET, POST, PUT, DELETE, PATCH"],
        ),
        ("http_action", {"url": "u", "headers": {"A": 1}}, ["headers.A: should be text"]),
        ("http_action", {"url": "u", "retry_count": -1}, ["retry_count: should be at least 0"]),
        ("http_action", {"url": "u", "timeout_seconds": 0}, ["timeout_seconds: should be more than 0"]),
        ("human_task", {}, ["task_type: required key is missing"]),
        (
            "human_task",
            {"task_type": "approval", "escalation_chain": ["a", 2]},
            ["escalation_chain[1]: should be text"],
        ),
        ("condition", {}, ["expression: required key is missing"]),
        ("condition", {"expression": 1}, ["expression: should be text"]),
        ("condition", {"expression": "(a"}, ["expression: '(' was never closed (character 1)"]),
        ("transform", {"mapping": {"a": "b", "c": "d["}}, ["mapping.c: '[' was never closed (character 2)"]),
        ("parallel_split", {"branches": 1}, ["branches: should be at least 2"]),
        ("parallel_split", {"branches": ["a", "a"]}, ["branches: should be a list without repetitions"]),
        ("parallel_split", {"branches": "2"}, ["branches: should be a whole number or a list"]),
        ("parallel_join", {"merge_strategy": "most"}, ["merge_strategy: should be one of all, any, first"]),
    ],
)
def test_a_configuration_that_does_not_fit_is_told_why_and_where(
    catalog: StepCatalog, type_id: str, config: dict[str, Any], expected: list[str]
) -> None:
    assert catalog.validate_step_config(type_id, config) == expected
    assert catalog.validate_config(type_id, config) is False


def test_faults_of_a_configuration_do_not_show_its_values(catalog: StepCatalog) -> None:
    config = {"url": "u", "method": "hunter2", "headers": {"A": ["hunter2"]}, "retry_count": "hunter2"}

    assert "hunter2" not in str(catalog.validate_step_config("http_action", config))


def test_an_unknown_type_is_one_fault(catalog: StepCatalog) -> None:
    (message,) = catalog.validate_step_config("gone", {})

    assert "Unknown step type 'gone'" in message
    assert catalog.validate_config("gone", {}) is False


def test_every_example_fits_its_own_schema(catalog: StepCatalog) -> None:
    for found in catalog.list_types():
        Draft202012Validator.check_schema(found.config_schema)
        for example in found.examples:
            assert catalog.validate_step_config(found.type_id, example) == []


def test_the_export_for_editors_is_json_with_everything_in_it(catalog: StepCatalog) -> None:
    exported = json.loads(json.dumps(catalog.export_for_ui()))

    assert exported["version"] == "1.0"
    assert exported["categories"] == [category.value for category in StepCategory]
    assert [found["type_id"] for found in exported["types"]] == BUILTIN
    assert exported["types"][0]["category"] == "ai"
    assert exported["types"][0]["output_ports"][1] == {
        "name": "error",
        "type": "object",
        "description": "",
        "required": False,
    }


def test_the_segment_schema_checks_each_step_by_its_type(catalog: StepCatalog) -> None:
    validator = Draft202012Validator(catalog.segment_schema())
    step = {"step_id": "a", "step_type": "condition", "config": {"expression": "x"}}

    assert validator.is_valid({"segment_id": "s", "name": "", "steps": [step]})
    assert not validator.is_valid({"segment_id": "s", "name": "", "steps": [{**step, "config": {}}]})


def test_a_port_shows_default_and_schema_only_where_they_are_set() -> None:
    assert set(PortSpec("p").to_dict()) == {"name", "type", "description", "required"}
    assert PortSpec("p", default=1, schema={"type": "integer"}).to_dict()["schema"] == {"type": "integer"}


def test_registered_types_are_known_until_they_are_unregistered(catalog: StepCatalog) -> None:
    catalog.register(metadata("mine"), answer, queue="llmteam.io", routing=True)

    facts = catalog.facts("mine")
    assert facts is not None
    assert (facts.inputs, facts.outputs, facts.queue, facts.routing) == (("input",), ("output",), "llmteam.io", True)
    assert catalog.get_handler("mine") is answer
    assert catalog.has("mine")
    catalog.unregister("mine")
    catalog.unregister("mine")
    assert not catalog.has("mine")
    assert catalog.get_handler("mine") is None
    assert catalog.facts("mine") is None


def test_replacing_a_type_keeps_what_is_not_given_anew(catalog: StepCatalog) -> None:
    catalog.register(metadata("mine"), answer, queue="llmteam.io")

    catalog.register(metadata("mine", input_ports=[PortSpec("x")]))

    facts = catalog.facts("mine")
    assert facts is not None
    assert (facts.inputs, facts.queue) == (("x",), "llmteam.io")
    assert catalog.get_handler("mine") is answer


@pytest.mark.parametrize(
    ("made", "queue", "reason"),
    [
        (metadata("no spaces"), None, "a name has letters"),
        (metadata(""), None, "a name has letters"),
        (metadata("mine"), "llmteam.gpu", "is served by no worker: use one of llmteam.control"),
        (metadata("mine"), "llmteam.quarantine", "is served by no worker"),
        (metadata("mine", config_schema={"type": "objekt"}), None, "config_schema is not JSON Schema"),
    ],
)
def test_a_type_that_cannot_be_used_is_refused(
    catalog: StepCatalog, made: StepTypeMetadata, queue: str | None, reason: str
) -> None:
    with pytest.raises(InvalidStepTypeError, match=reason):
        catalog.register(made, queue=queue)


def test_the_decorator_registers_functions_and_classes(catalog: StepCatalog) -> None:
    @step_type("double", properties={"by": {"type": "integer"}}, outputs=("output", "rest"), catalog=catalog)
    def double(ctx: Any, config: dict[str, Any], input_data: Any) -> Any:
        return input_data

    @step_type("greet", queue="llmteam.llm", routing=True, catalog=catalog)
    class Greet:
        async def __call__(self, ctx: Any, config: dict[str, Any], input_data: Any) -> Any:
            return "hello"

    assert catalog.get_handler("double") is double
    assert isinstance(catalog.get_handler("greet"), Greet)
    assert catalog.validate_step_config("double", {"by": "x"}) == ["by: should be a whole number"]
    assert catalog.validate_step_config("double", {"retry_count": -1}) == ["retry_count: should be at least 0"]
    facts = catalog.facts("double")
    assert facts is not None
    assert (facts.outputs, facts.queue) == (("output", "rest"), "llmteam.default")


def test_a_module_may_be_imported_twice_and_a_name_not_taken_twice(catalog: StepCatalog) -> None:
    def import_module() -> None:
        @step_type("mine", catalog=catalog)
        def mine(ctx: Any, config: dict[str, Any], input_data: Any) -> None: ...

    import_module()
    import_module()

    with pytest.raises(StepTypeExistsError, match="mine"):
        step_type("mine", catalog=catalog)(answer)
    with pytest.raises(StepTypeExistsError, match="human_task"):
        step_type("human_task", catalog=catalog)(answer)


def test_a_class_that_cannot_be_called_is_no_handler(catalog: StepCatalog) -> None:
    with pytest.raises(InvalidStepTypeError, match="__call__"):
        step_type("mine", catalog=catalog)(type("Empty", (), {}))


@pytest.mark.usefixtures("fresh_instance")
def test_the_process_has_one_catalog_with_handlers() -> None:
    catalog = StepCatalog.get_instance()

    assert StepCatalog.get_instance() is catalog
    assert catalog.list_type_ids() == BUILTIN
    assert [type_id for type_id in BUILTIN if catalog.get_handler(type_id) is None] in ([], ["human_task"])


@pytest.mark.usefixtures("fresh_instance")
def test_after_a_reset_the_process_has_a_new_catalog() -> None:
    old = StepCatalog.get_instance()
    old.register(metadata("mine"))

    StepCatalog.reset_instance()

    assert StepCatalog.get_instance() is not old
    assert not StepCatalog.get_instance().has("mine")
