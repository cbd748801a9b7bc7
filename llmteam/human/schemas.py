"""Data of a form against its JSON Schema: what is wrong with which part, in words and without the value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable


@dataclass(frozen=True, slots=True)
class FormProblem:
    """What is wrong with one part of a form: the keys that lead to it, and the rule, without the value."""

    where: tuple[str | int, ...]
    rule: str


def validator_of(schema: Mapping[str, Any]) -> Draft202012Validator:
    """Checks data. References lead nowhere but into the schema itself, and nothing is fetched."""
    return Draft202012Validator(schema, registry=Registry())


def form_problems(schema: Mapping[str, Any], data: Any) -> list[FormProblem]:
    """All that is wrong with the data, each part once; what is missing is named where it should stand."""
    try:
        return list(_found(schema, data).values())
    except (RecursionError, Unresolvable):
        return [FormProblem((), "what the form must look like cannot be told")]


def _found(schema: Mapping[str, Any], data: Any) -> dict[tuple[str | int, ...], FormProblem]:
    found: dict[tuple[str | int, ...], FormProblem] = {}
    for error in validator_of(schema).iter_errors(data):
        where = tuple(error.absolute_path)
        if error.validator == "required" and isinstance(error.instance, Mapping):
            for name in error.validator_value:
                if name not in error.instance:
                    found.setdefault((*where, name), FormProblem((*where, name), "is missing"))
        else:
            found.setdefault(where, FormProblem(where, _rule(error)))
    return found


def in_words(error: ValidationError) -> str:
    """An error as a sentence that names the place."""
    where = error.json_path.removeprefix("$.").removeprefix("$") or "the form"
    return f"{where}: {_rule(error)}"


def _rule(error: ValidationError) -> str:
    """What the data should be, without what it is: that may be confidential."""
    kind = str(error.validator)
    rule: Any = error.validator_value
    if kind == "required":
        return f"{error.message.split(' is ')[0]} is missing"
    if kind == "type":
        return f"must be of type {' or '.join(rule) if isinstance(rule, list) else rule}"
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
