"""JSON Schema of payloads and answers: whether a value fits, and where it does not, without showing it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry

from llmteam import codec

#: Names of a path that a message shows.
_SHOWN = 5


def schema_fault(schema: Mapping[str, Any]) -> str:
    """Why this is no JSON Schema of draft 2020-12; empty when it is one."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as exc:
        return f"{'.'.join(map(str, exc.absolute_path)) or 'it'} is not JSON Schema"
    return ""


def misfit(schema: Mapping[str, Any] | None, value: Any) -> str:
    """Where ``value`` does not fit, by path and rule; empty when it does. References stay inside the schema."""
    if schema is None:
        return ""
    error = best_match(_validator(codec.canonical(schema)).iter_errors(value))
    if error is None:
        return ""
    path = ".".join(str(part)[:60] for part in list(error.absolute_path)[:_SHOWN])
    rule = error.validator_value if error.validator in ("type", "required", "minimum", "maximum") else ""
    return f"'{path or '$'}' does not fit the rule {error.validator}" + (f" {rule}" if rule != "" else "")


@lru_cache(maxsize=256)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(codec.loads(schema), registry=Registry())
