"""The JSON Schema of a form: whether it is one, and what in data does not satisfy it, in words. Pure.

References lead nowhere outside the schema itself: checking an answer must not make this process fetch anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

#: Keys of a schema whose values are data and hold no schemas.
_DATA = {"const", "default", "enum", "examples"}


@dataclass(frozen=True, slots=True)
class FormProblem:
    """What is wrong with one part of a form: the keys that lead to it, and the rule, without the value."""

    where: tuple[str | int, ...]
    rule: str


def schema_fault(schema: Mapping[str, Any]) -> str | None:
    """Why ``schema`` cannot be that of a form; None when it can."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as exc:
        return f"is no JSON Schema (draft 2020-12): {exc.message[:200]}"
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(dict(schema)))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            return f"refers to {reference[:200]!r}, which is not in it: put the definition under $defs"
    return None


def _references(schema: Any) -> Iterator[str]:
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo += part
        elif isinstance(part, Mapping):
            for key, value in part.items():
                if key in {"$ref", "$dynamicRef"} and isinstance(value, str):
                    yield value
                elif key not in _DATA:
                    todo.append(value)


def first_problem(schema: Mapping[str, Any], data: Any) -> tuple[str, str] | None:
    """The problem that tells most, as a sentence and its JSON path; None when the data is right."""
    found = best_match(_validator(schema).iter_errors(data))
    return None if found is None else (f"{_place(found)}: {_rule(found)}", found.json_path)


def form_problems(schema: Mapping[str, Any], data: Any) -> list[FormProblem]:
    """All that is wrong with the data, each part once; what is missing is named where it should stand."""
    found: dict[tuple[str | int, ...], FormProblem] = {}
    for error in _validator(schema).iter_errors(data):
        where = tuple(error.absolute_path)
        if error.validator == "required" and isinstance(error.instance, Mapping):
            for name in error.validator_value:
                if name not in error.instance:
                    found.setdefault((*where, name), FormProblem((*where, name), "is missing"))
        else:
            found.setdefault(where, FormProblem(where, _rule(error)))
    return list(found.values())


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(schema, registry=Registry())


def _place(error: ValidationError) -> str:
    return error.json_path.removeprefix("$.").removeprefix("$") or "the form"


def _rule(error: ValidationError) -> str:
    """What the data should be, without what it is: that may be confidential."""
    kind, rule = str(error.validator), error.validator_value
    if kind == "required":
        return f"{error.message.split(' is ')[0]} is missing"
    if kind == "type":
        return f"must be of type {rule if isinstance(rule, str) else ' or '.join(map(str, rule))}"
    said = _SAID.get(kind)
    return f"does not satisfy {kind}" if said is None else said.format(str(rule)[:200])


_SAID = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} entries",
    "maxItems": "must have at most {} entries",
    "uniqueItems": "must not have the same entry twice",
    "enum": "must be one of {}",
    "const": "must be {}",
    "pattern": "must match {}",
    "additionalProperties": "has a field that was not asked for",
}
