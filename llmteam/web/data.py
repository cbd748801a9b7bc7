"""JSON as people read it: definition lists, tables, and long text folded. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

#: Characters of a text that is shown whole; of a longer one, those of the line that unfolds it.
WHOLE, HEAD = 400, 120
#: Levels that are laid out; what is nested deeper is shown as JSON.
DEPTH = 8
#: Columns of a table, and entries of a list that is not folded.
COLUMNS, ENTRIES = 8, 25

Kind = Literal["nothing", "word", "number", "text", "folded", "list", "fields", "table"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A value laid out. ``text`` is that of a word or text, ``head`` the line of what is folded.

    ``parts`` are the entries of a list, ``names`` and ``parts`` a definition list, ``names`` and ``rows`` a table.
    """

    kind: Kind
    text: str = ""
    head: str = ""
    names: tuple[str, ...] = ()
    parts: tuple[Shown, ...] = ()
    rows: tuple[tuple[Shown, ...], ...] = ()


NOTHING = Shown("nothing")


def shown(value: Any, depth: int = 0) -> Shown:
    """``value`` laid out."""
    if value is None or value in ("", [], {}):
        return NOTHING
    match value:
        case bool():
            return Shown("word", "yes" if value else "no")
        case int() | float():
            return Shown("number", json.dumps(value))
        case str():
            return text(value)
        case _ if depth >= DEPTH:
            return text(json.dumps(value, ensure_ascii=False, indent=2))
        case Mapping():
            parts = tuple(shown(part, depth + 1) for part in value.values())
            return Shown("fields", names=tuple(map(str, value)), parts=parts)
        case Sequence():
            return _listed(value, depth)
        case _:
            return text(str(value))


def text(value: str) -> Shown:
    """A text: whole when it is short, else folded behind its beginning."""
    if "\n" not in value and len(value) <= HEAD:
        return Shown("word", value)
    if len(value) <= WHOLE and value.count("\n") < 8:
        return Shown("text", value)
    first = value.strip().split("\n", 1)[0]
    return Shown("folded", value, head=f"{first[:HEAD]}… ({len(value):,} characters)")


def _listed(values: Sequence[Any], depth: int) -> Shown:
    columns = _columns(values)
    head = f"{len(values):,} entries" if len(values) > ENTRIES else ""
    if columns:
        rows = tuple(tuple(shown(row.get(name), depth + 1) for name in columns) for row in values)
        return Shown("table", head=head, names=columns, rows=rows)
    return Shown("list", head=head, parts=tuple(shown(part, depth + 1) for part in values))


def _columns(values: Sequence[Any]) -> tuple[str, ...]:
    """The columns of a table, for entries that are flat and alike; else none."""
    if len(values) < 2 or not all(isinstance(row, Mapping) and row for row in values):
        return ()
    names = tuple(dict.fromkeys(str(name) for row in values for name in row))
    flat = not any(isinstance(cell, Mapping | list) for row in values for cell in row.values())
    return names if flat and len(names) <= COLUMNS else ()
