"""The JSON form of segments: the base of their models, reading with typed problems, writing what was read.

Reading understands the keys of other writers where a model says so and keeps unknown keys; a constructor takes
the model's own names only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from llmteam import codec
from llmteam.canvas.exceptions import SegmentSyntaxError, SegmentValidationError
from llmteam.errors import NotJSONError

_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*+"|(NaN|-?Infinity)')
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|([\[{])|([\]}])')


def _plain_number(value: float | None) -> float | int | None:
    """300.0 is written as 300, so that a document keeps the number its author wrote and hashes alike."""
    return int(value) if value is not None and float(value).is_integer() else value


Number = Annotated[
    float, Field(strict=True, allow_inf_nan=False), PlainSerializer(_plain_number, return_type=float | int | None)
]


@dataclass(frozen=True)
class Problem:
    """One fault of a definition: ``path`` is where in the document, like ``steps[0].config.url``."""

    code: str
    message: str
    path: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class CanvasModel(BaseModel):
    """Base of everything that a segment document holds; declares once the pydantic names that we use ourselves."""

    model_config = ConfigDict(extra="forbid", validate_default=False)

    _optional: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls._optional = frozenset(
            name for name, field in cls.model_fields.items() if field.default is None and not field.is_required()
        )

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        for name in self._optional:
            if data.get(name, name) is None:
                del data[name]
        if self.__pydantic_extra__:
            data.update(self.__pydantic_extra__)
        return data

    def validate(self) -> list[str]:  # type: ignore[override]
        """Every problem that can be seen without catalog and graph, with its place; empty when sound."""
        return [str(problem) for problem in self.problems()]

    def problems(self) -> Iterator[Problem]:
        """What :meth:`validate` lists, with codes and paths."""
        return iter(())

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of this part, unknown keys that were read included."""
        return self.model_dump(mode="python")

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read a document. Raises :class:`SegmentValidationError` that lists every fault with its path."""
        value, problems = cls.read(data)
        if value is None:
            raise SegmentValidationError([str(problem) for problem in problems])
        return value

    @classmethod
    def read(cls, data: Any) -> tuple[Self | None, list[Problem]]:
        """The value of a document and no problems, or nothing and every reason why it cannot be read."""
        try:
            codec.check(data, "")
            return cls.model_validate(cls._in_our_keys(data), extra="allow"), []
        except NotJSONError as exc:
            return None, [Problem("INVALID_TYPE", exc.reason, exc.path.removeprefix("."))]
        except ValidationError as exc:
            return None, list(_translated(exc))

    @classmethod
    def _in_our_keys(cls, data: Any) -> Any:
        """``data`` with the keys of other writers renamed to ours; anything unexpected is left to the checks."""
        return data


def renamed(data: Any, names: Mapping[str, str]) -> Any:
    """A copy of ``data`` with keys renamed; our own key wins when both are there."""
    if not isinstance(data, Mapping):
        return data
    ours = {name: value for name, value in data.items() if name not in names}
    for theirs, name in names.items():
        if theirs in data:
            ours.setdefault(name, data[theirs])
    return ours


def each(data: Any, kind: type[CanvasModel]) -> Any:
    """The items of a list in the keys of ``kind``; anything but a list is left to the checks."""
    return [kind._in_our_keys(item) for item in data] if isinstance(data, list | tuple) else data


def _translated(exc: ValidationError) -> Iterator[Problem]:
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        kind = error["type"]
        path = json_path(error["loc"])
        if kind == "missing":
            yield Problem("MISSING_FIELD", "required key is missing", path)
        else:
            code = "INVALID_TYPE" if kind.endswith(("_type", "_parsing")) else "INVALID_VALUE"
            message = _plain_message(error["msg"])
            yield Problem(code, message if path else f"the document {message}", path)


def _plain_message(text: str) -> str:
    """Pydantic's sentence in the words of JSON; it never holds the value itself."""
    if "a valid dictionary" in text:
        return "should be an object"
    return text.replace("a valid ", "a ").removeprefix("Input ").strip()


def json_path(parts: tuple[int | str, ...] | list[int | str]) -> str:
    """``("steps", 0, "config")`` as ``steps[0].config``."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def parse_document(source: str | bytes) -> Any:
    """The value of JSON text. Raises :class:`SegmentSyntaxError` with line and column."""
    text = (_decoded(source) if isinstance(source, bytes) else source).removeprefix("\ufeff")
    try:
        return codec.loads(text)
    except json.JSONDecodeError as exc:
        raise SegmentSyntaxError(f"not JSON: {exc.msg}", exc.lineno, exc.colno) from None
    except ValueError as exc:
        raise SegmentSyntaxError(str(exc), *_place(text[: _constant_offset(text)])) from None
    except RecursionError:
        raise SegmentSyntaxError(f"nested deeper than {codec.MAX_DEPTH} levels", *_deepest(text)) from None


def _decoded(source: bytes) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError as exc:
        place = _place(source[: exc.start].decode(errors="replace"))
        raise SegmentSyntaxError("not UTF-8 text: save the file as UTF-8", *place) from None


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _constant_offset(text: str) -> int:
    """Where a number stands that JSON does not have, texts left out."""
    return next((match.start() for match in _CONSTANT.finditer(text) if match[1]), 0)


def _deepest(text: str) -> tuple[int, int]:
    """Where the nesting first goes over the limit."""
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match[1] else -1 if match[2] else 0
        if depth > codec.MAX_DEPTH:
            return _place(text[: match.start()])
    return 1, 1
