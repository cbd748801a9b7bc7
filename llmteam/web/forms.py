"""Forms drawn from a JSON Schema, and what was entered in them as JSON. Pure.

Drawn are text, numbers, booleans, enumerations, dates, lists of text, and objects of these; the rest is entered as
JSON. A field that is left empty is left out, so that a schema says of a required one that it is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmteam import codec
from llmteam.human.schemas import FormProblem, form_problems

#: Levels of objects and number of fields that are drawn; what goes beyond is entered as JSON.
DEPTH, FIELDS = 5, 200
#: Characters from which on a text gets several lines.
LONG = 200

Kind = Literal["text", "long", "number", "integer", "boolean", "enum", "date", "email", "lines", "json", "group"]
Schema = Mapping[str, Any]

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DRAWN_APART = {"allOf", "anyOf", "oneOf", "not", "if", "const", "patternProperties"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form, or a group of them.

    ``name`` is its name in the form, ``where`` the keys that lead to it, ``options`` (JSON text, label) of an enum.
    ``nullable`` says that an empty required one is null; ``keeps_empty`` that an empty text is a text.
    """

    name: str
    where: tuple[str | int, ...]
    label: str
    kind: Kind
    key: str = ""
    help: str = ""
    required: bool = False
    nullable: bool = False
    keeps_empty: bool = False
    options: tuple[tuple[str, str], ...] = ()
    default: str = ""
    fields: tuple[Field, ...] = ()


@dataclass(slots=True)
class Entered:
    """What a form gave: the data, and what of it cannot be read."""

    data: dict[str, Any] = field(default_factory=dict)
    problems: list[FormProblem] = field(default_factory=list)


def form_of(schema: Schema | None) -> Field:
    """The form for data that satisfies ``schema``: a group, or one field of JSON for what cannot be drawn."""
    root = schema or {}
    drawn = _Drawing(root).field("", (), root, required=True)
    if drawn.kind == "group" and drawn.fields:
        return drawn
    return Field("data", (), "Your answer, as JSON", "json", required=True, default="{}")


def form_of_data(data: Mapping[str, Any]) -> Field:
    """The form to change ``data`` in: one field for each part, filled with it."""
    drawn = _Drawing({}).field("", (), _schema_of(data), required=True) if data else None
    if drawn is not None and drawn.kind == "group":
        return drawn
    return Field("data", (), "Changes, as JSON", "json", required=True, default=written("json", dict(data)))


def _schema_of(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"type": "boolean", "default": value}
        case int():
            return {"type": "number", "default": value}
        case float():
            return {"type": "number", "default": value}
        case str():
            return {"type": "string", "default": value, "x-keeps-empty": True}
        case list() if value and all(isinstance(part, str) and _is_line(part) for part in value):
            return {"type": "array", "items": {"type": "string"}, "default": value}
        case dict() if value:
            properties = {key: _schema_of(part) for key, part in value.items()}
            return {"type": "object", "properties": properties, "required": list(value), "default": value}
        case _:
            return {"default": value}


def _is_line(text: str) -> bool:
    """Whether a text comes back the same as one line of several."""
    return text == text.strip() != "" and "\n" not in text and "\r" not in text


class _Drawing:
    """Draws one schema; counts its fields."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._count = 0

    def field(self, name: str, where: tuple[str | int, ...], schema: Any, *, required: bool) -> Field:
        """The field for one part."""
        schema = self._resolved(schema)
        key = str(where[-1]) if where else ""
        label = str(schema.get("title") or key)
        about = str(schema.get("description") or "")
        kind, nullable = _kind(schema, len(where))
        self._count += 1
        if kind == "group" and self._count + len(schema["properties"]) > FIELDS:
            kind = "json"
        if kind == "group":
            inner = schema["properties"]
            needed = schema.get("required") or ()
            fields = tuple(
                self.field(f"{name}/{_escaped(part)}", (*where, part), of, required=part in needed)
                for part, of in inner.items()
            )
            return Field(name, where, label, kind, key, about, required, nullable, fields=fields)
        options = tuple((codec.dumps(value), _label(value)) for value in schema["enum"]) if kind == "enum" else ()
        default = written(kind, schema["default"]) if "default" in schema else ""
        keeps = bool(schema.get("x-keeps-empty"))
        return Field(f"f{name}", where, label, kind, key, about, required, nullable, keeps, options, default)

    def _resolved(self, schema: Any) -> Schema:
        """A schema behind a reference within the document; one that leads elsewhere is drawn as JSON."""
        for _ in range(DEPTH):
            reference = schema.get("$ref") if isinstance(schema, Mapping) else None
            if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
                break
            schema = (self._root.get("$defs") or {}).get(reference.removeprefix("#/$defs/"), {})
        return schema if isinstance(schema, Mapping) else {}


def _kind(schema: Schema, depth: int) -> tuple[Kind, bool]:
    """How a part is entered, and whether it may be null."""
    if "enum" in schema and isinstance(schema["enum"], list) and schema["enum"]:
        return "enum", False
    given = schema.get("type")
    types = [given] if isinstance(given, str) else list(given or ())
    nullable = "null" in types
    types = [one for one in types if one != "null"] or (["object"] if "properties" in schema else [])
    if "$ref" in schema or _DRAWN_APART & schema.keys() or len(types) != 1:
        return "json", nullable
    match types[0]:
        case "string":
            return _kind_of_text(schema), nullable
        case "number" | "integer" | "boolean" as kind:
            return ("json" if kind == "boolean" and nullable else kind), nullable
        case "array" if _is_text(schema.get("items")):
            return "lines", nullable
        case "object" if schema.get("properties") and isinstance(schema["properties"], Mapping) and depth < DEPTH:
            return "group", nullable
    return "json", nullable


def _kind_of_text(schema: Schema) -> Kind:
    match schema.get("format"):
        case "date":
            return "date"
        case "email":
            return "email"
    most, default = schema.get("maxLength"), schema.get("default")
    is_long = (isinstance(most, int) and most > LONG) or (
        isinstance(default, str) and (len(default) > LONG or "\n" in default)
    )
    return "long" if is_long else "text"


def _is_text(items: Any) -> bool:
    return isinstance(items, Mapping) and items.get("type") == "string" and "enum" not in items


def _escaped(key: str) -> str:
    """A part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _label(value: Any) -> str:
    return value if isinstance(value, str) else codec.dumps(value)


def written(kind: Kind, value: Any) -> str:
    """A value as it stands in a field of this kind."""
    match kind:
        case "boolean":
            return "true" if value is True else ""
        case "lines" if isinstance(value, list):
            return "\n".join(map(str, value))
        case "text" | "long" | "date" | "email" if isinstance(value, str):
            return value
        case "enum":
            return codec.dumps(value)
        case "json":
            return json.dumps(value, ensure_ascii=False, indent=2)
    return "" if value is None else _label(value)


def defaults(form: Field) -> dict[str, str]:
    """What stands in a form before anybody has entered anything."""
    return {one.name: one.default for one in leaves(form)}


def ids_of(form: Field, place: str = "f") -> dict[str, Field]:
    """Every field that is not a group, by its id in the page: the positions that lead to it."""
    if form.kind != "group":
        return {place: form}
    found: dict[str, Field] = {}
    for number, inner in enumerate(form.fields, 1):
        found |= ids_of(inner, f"{place}-{number}")
    return found


def leaves(form: Field) -> Iterator[Field]:
    """Every field that is not a group."""
    if form.kind != "group":
        yield form
    for inner in form.fields:
        yield from leaves(inner)


def read(form: Field, given: Mapping[str, str]) -> Entered:
    """What was entered, as JSON."""
    entered = Entered()
    value = _read(form, given, entered.problems)
    if isinstance(value, dict):
        entered.data = value
    elif not isinstance(value, _Left):
        entered.problems.append(FormProblem((), "must be a JSON object"))
    return entered


class _Left:
    """Nothing was entered."""


_LEFT = _Left()


def _read(field: Field, given: Mapping[str, str], problems: list[FormProblem]) -> Any:
    if field.kind == "group":
        found = {inner.key: _read(inner, given, problems) for inner in field.fields}
        kept = {key: value for key, value in found.items() if not isinstance(value, _Left)}
        # Boxes that nobody ticked do not make an optional group.
        empty = all(value is False for value in kept.values())
        return _LEFT if empty and not field.required else kept
    text = given.get(field.name, "").replace("\r\n", "\n")
    if field.kind == "boolean":
        return text == "true"
    if not text.strip() and not (field.keeps_empty and field.name in given):
        return None if field.nullable and field.required else _LEFT
    return _value(field, text, problems)


def _value(field: Field, text: str, problems: list[FormProblem]) -> Any:
    match field.kind:
        case "number" | "integer":
            return _number(text.strip())
        case "lines":
            return [line.strip() for line in text.split("\n") if line.strip()]
        case "json" | "enum":
            try:
                return codec.loads(text)
            except (ValueError, RecursionError):
                problems.append(FormProblem(field.where, "is no JSON"))
                return _LEFT
        case "date" | "email":
            return text.strip()
    return text


def _number(text: str) -> int | float | str:
    """A number; text that is none stays text, of which the schema then says what it must be."""
    if _NUMBER.fullmatch(text) is None or len(text) > 400:
        return text
    value = json.loads(text)
    return text if value in {float("inf"), float("-inf")} else value


def problems_of(form: Field, schema: Schema | None, entered: Entered) -> dict[str, str]:
    """What is wrong with what was entered, by the name of the field; by ``""`` what is wrong with no single one."""
    found = [*entered.problems, *(form_problems(schema, entered.data) if schema is not None else ())]
    said: dict[str, str] = {}
    for problem in found:
        leaf = _field_at(form, problem.where)
        inside = problem.where if leaf is None else problem.where[len(leaf.where) :]
        place = ", ".join(f"entry {key + 1}" if isinstance(key, int) else key for key in inside)
        said.setdefault("" if leaf is None else leaf.name, f"{place}: {problem.rule}" if place else problem.rule)
    place_of = {leaf.name: number for number, leaf in enumerate(leaves(form))}
    return dict(sorted(said.items(), key=lambda one: place_of.get(one[0], len(place_of))))


def _field_at(form: Field, where: Sequence[str | int]) -> Field | None:
    """The field in which a part was entered; None when it is none of one field."""
    inside = [leaf for leaf in leaves(form) if tuple(where[: len(leaf.where)]) == leaf.where]
    return max(inside, key=lambda leaf: len(leaf.where), default=None)
