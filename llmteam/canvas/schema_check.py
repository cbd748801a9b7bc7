"""Step configurations against the JSON Schema of their type: every fault with its path, and no value in any text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry

from llmteam.canvas.documents import Problem, json_path
from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.expressions import compile_expression

#: The format of a schema's text that is an expression over the step's document.
EXPRESSION_FORMAT = "expression"

#: Keys that the engine reads from the configuration of any step.
COMMON_KEYS: dict[str, dict[str, Any]] = {
    "retry_count": {"type": "integer", "minimum": 0, "description": "Retries after the first attempt."},
    "timeout_seconds": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds that one attempt may take."},
    "limits": {
        "description": "Registered limits that the step is under; by default those of its model, client or host.",
        "type": ["string", "array"],
        "minLength": 1,
        "items": {
            "type": ["string", "object"],
            "minLength": 1,
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "by": {"type": "string", "format": EXPRESSION_FORMAT},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    },
}

_TYPE_NAMES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "text",
}

_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters long",
    "maxLength": "at most {} characters long",
    "minItems": "a list of at least {} items",
    "maxItems": "a list of at most {} items",
    "multipleOf": "a multiple of {}",
    "uniqueItems": "a list without repetitions",
    "pattern": "text that matches {}",
    "format": "of the format {}",
}

#: The format of an object that is itself a JSON Schema.
SCHEMA_FORMAT = "json-schema"

_formats = FormatChecker(formats=())


@_formats.checks(EXPRESSION_FORMAT, raises=InvalidConditionError)
def _is_expression(value: object) -> bool:
    if isinstance(value, str):
        compile_expression(value)
    return True


@_formats.checks(SCHEMA_FORMAT, raises=SchemaError)
def _is_schema(value: object) -> bool:
    if isinstance(value, dict):
        Draft202012Validator.check_schema(value)
    return True


class ConfigSchema:
    """A step type's schema, ready to check configurations. References lead nowhere outside the schema itself."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.known_keys = {*schema.get("properties", ()), *COMMON_KEYS}
        self._closed = bool(schema.get("properties")) and "additionalProperties" not in schema
        self._validator = Draft202012Validator(schema, format_checker=_formats, registry=Registry())

    @staticmethod
    def fault(schema: Mapping[str, Any]) -> str | None:
        """Why ``schema`` is no JSON Schema of draft 2020-12, if it is none."""
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as exc:
            return f"{json_path(list(exc.absolute_path)) or 'schema'}: {exc.message[:200]}"
        return None

    def problems(self, config: Mapping[str, Any], path: str = "") -> Iterator[Problem]:
        """Every fault of ``config``, with paths below ``path``."""
        for error in self._validator.iter_errors(dict(config)):
            yield from _faults(error, path)

    def unknown_keys(self, config: Mapping[str, Any]) -> list[str]:
        """Keys that the type does not describe; they are kept, and nobody may read them."""
        return [key for key in config if key not in self.known_keys] if self._closed else []


def _faults(error: ValidationError, path: str) -> Iterator[Problem]:
    where = _below(path, list(error.absolute_path))
    if isinstance(error.cause, InvalidConditionError):
        yield Problem("BAD_EXPRESSION", error.cause.reason, where)
    elif isinstance(error.cause, SchemaError):
        yield Problem("SCHEMA_VIOLATION", "is not JSON Schema", _below(where, list(error.cause.absolute_path)))
    elif error.validator == "required":
        # One error per missing key, each of which names the key in its message only.
        missing = [key for key in _rule_of(error) if error.message.startswith(f"{key!r} ")]
        yield Problem("SCHEMA_VIOLATION", "required key is missing", _below(where, missing[:1]))
    elif nearest := _nearest_alternative(error):
        for inner in nearest:
            yield from _faults(inner, path)
    else:
        yield Problem("SCHEMA_VIOLATION", _sentence(error), where)


def _nearest_alternative(error: ValidationError) -> list[ValidationError]:
    """Faults of the only alternative that a value of this type could fit."""
    by_option: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        by_option.setdefault(inner.relative_schema_path[0], []).append(inner)
    close = [
        faults for faults in by_option.values() if not any(one.validator in ("type", "required") for one in faults)
    ]
    return close[0] if len(close) == 1 else []


def _rule_of(error: ValidationError) -> Any:
    value: Any = error.validator_value
    return value


def _sentence(error: ValidationError) -> str:
    rule, value = str(error.validator), _rule_of(error)
    if rule == "type":
        kinds = [value] if isinstance(value, str) else value
        return f"should be {' or '.join(_TYPE_NAMES.get(kind, kind) for kind in kinds)}"
    if rule in ("enum", "const"):
        choices = value if rule == "enum" else [value]
        return f"should be one of {', '.join(str(choice) for choice in choices)}"
    if rule in ("anyOf", "oneOf"):
        return _alternatives(value)
    if rule in _BOUNDS:
        return f"should be {_BOUNDS[rule].format(value)}"
    if rule == "additionalProperties":
        return "has a key that is not allowed here"
    return f"does not fit the rule {rule!r} of its schema"


def _alternatives(options: list[Any]) -> str:
    """``needs model or llm_ref`` where the options are sets of keys, else the kinds of value that are allowed."""
    if all(isinstance(option, dict) and "required" in option for option in options):
        return f"needs {' or '.join(' and '.join(option['required']) for option in options)}"
    kinds = [_TYPE_NAMES.get(option.get("type", ""), "") for option in options if isinstance(option, dict)]
    return f"should be {' or '.join(kinds)}" if kinds and all(kinds) else "fits none of the allowed forms"


def _below(path: str, parts: list[Any]) -> str:
    tail = json_path(parts)
    if not path or not tail:
        return path or tail
    return path + tail if tail.startswith("[") else f"{path}.{tail}"
