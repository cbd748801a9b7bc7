"""Pure: a model's answer read as JSON and held against a schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from llmteam import codec
from llmteam.canvas.exceptions import CanvasError, InvalidStepConfigError
from llmteam.errors import NotJSONError

#: Faults that are told to the model, and shown in an error.
_SHOWN = 5

_FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")


class OutputSchemaError(CanvasError):
    """A model's answer does not fit ``output_schema``, also after the model was told why. Another try may do better."""

    retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"The model's answer does not fit output_schema: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AnswerFault:
    """Why an answer does not fit: ``told`` quotes it, for the model only; ``shown`` names rules of the schema."""

    told: str = field(repr=False)
    shown: str

    @property
    def repair_instruction(self) -> str:
        """What the model is told next."""
        return f"This answer cannot be used:\n{self.told}\nAnswer again, with the corrected JSON only."


class OutputSchema:
    """A JSON schema that answers have to fit. References lead nowhere outside the schema itself.

    Raises :class:`InvalidStepConfigError` when ``schema`` is none.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._text = codec.canonical(schema, path="output_schema")
        self._validator = _validator(self._text)

    @property
    def instruction(self) -> str:
        """What the model is told about the form of its answer."""
        return f"Answer with JSON only, no prose and no code fence. It has to fit this JSON Schema:\n{self._text}"

    def read(self, answer: str) -> Any:
        """The value in ``answer``, or an :class:`AnswerFault`."""
        value = _parsed(answer)
        if isinstance(value, AnswerFault):
            return value
        try:
            faults = list(islice(self._validator.iter_errors(value), _SHOWN))
        except (Unresolvable, RecursionError) as exc:
            raise _bad_schema(f"a reference cannot be followed ({type(exc).__name__})") from None
        if not faults:
            return value
        told = "\n".join(f"- at {fault.json_path}: {fault.message[:300]}" for fault in faults)
        places = ["/".join(map(str, fault.absolute_schema_path)) for fault in faults]
        return AnswerFault(told, f"rules broken: {', '.join(places)[:500]}")


def _parsed(answer: str) -> Any:
    """The JSON in ``answer``, or an :class:`AnswerFault`. It may stand in a code fence or between sentences."""
    for candidate in _candidates(answer):
        try:
            value = codec.loads(candidate)
            codec.check(value)
        except (ValueError, RecursionError, NotJSONError):
            continue
        return value
    return AnswerFault("- it is not JSON", "it is not JSON")


def _candidates(answer: str) -> Iterator[str]:
    yield answer.strip()
    for match in islice(_FENCED.finditer(answer), 3):
        yield match[1]
    opening = _OPENING.search(answer)
    end = max(answer.rfind("}"), answer.rfind("]"))
    if opening is not None and end > opening.start():
        yield answer[opening.start() : end + 1]


@lru_cache(maxsize=256)
def _validator(text: str) -> Validator:
    schema = codec.loads(text)
    if not isinstance(schema, dict):
        raise _bad_schema("it has to be an object")
    kind: type[Validator] = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as exc:
        raise _bad_schema(f"{exc.json_path}: {exc.message[:200]}") from None
    return kind(schema, registry=Registry())


def _bad_schema(reason: str) -> InvalidStepConfigError:
    return InvalidStepConfigError("llm_agent", [f"output_schema: {reason}"])
