"""Event logs as XES 1.0 (xes-standard.org), written as a stream: nothing is held but the event at hand.

Attributes are typed; characters that XML 1.0 cannot carry are replaced by U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from llmteam.ids import as_utc
from llmteam.mining.models import Case, ProcessEvent

_EXTENSIONS = (
    ("Concept", "concept", "http://www.xes-standard.org/concept.xesext"),
    ("Organizational", "org", "http://www.xes-standard.org/org.xesext"),
    ("Lifecycle", "lifecycle", "http://www.xes-standard.org/lifecycle.xesext"),
    ("Time", "time", "http://www.xes-standard.org/time.xesext"),
    ("Cost", "cost", "http://www.xes-standard.org/cost.xesext"),
)
#: Attributes that the writer gives an event itself; others of these names are left out.
_OWN = frozenset(
    {"concept:name", "org:resource", "lifecycle:transition", "time:timestamp", "cost:total", "duration_ms"}
)

# XML 1.0, production 2: what is no Char.
_NO_CHARACTER = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = re.compile('[&<>"\t\n\r\ufffe\uffff\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f]')
# White space is written as references, because a parser turns it into blanks otherwise (XML 1.0, section 3.3.3).
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
_INT_BITS = 63

HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<log xes.version="1.0" xes.features="" xmlns="http://www.xes-standard.org/">
"""
FOOTER = "</log>\n"
_GLOBALS = """<global scope="trace">
<string key="concept:name" value=""/>
</global>
<global scope="event">
<string key="concept:name" value=""/>
<string key="lifecycle:transition" value="complete"/>
<date key="time:timestamp" value="1970-01-01T00:00:00.000+00:00"/>
</global>
<classifier name="Activity" keys="concept:name lifecycle:transition"/>
"""


def xes_text(cases: Iterable[Case], *, name: str = "") -> str:
    """The whole document at once."""
    return "".join(xes_parts(cases, name=name))


def xes_parts(cases: Iterable[Case], *, name: str = "", attributes: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The document piece by piece: the head, each trace's beginning, each event, the end.

    ``name`` is the log's own; ``attributes`` are more that are said of the log. Every case is read once, in order.
    """
    yield HEADER
    for extension, prefix, uri in _EXTENSIONS:
        yield f'<extension name="{extension}" prefix="{prefix}" uri="{uri}"/>\n'
    yield _GLOBALS
    yield _string("concept:name", name) + _string("lifecycle:model", "standard")
    yield _attributes(attributes or {}, {"concept:name", "lifecycle:model"})
    for case in cases:
        yield "<trace>\n" + _string("concept:name", case.case_id) + _attributes(case.attributes, {"concept:name"})
        for event in case.events:
            yield event_element(event)
        yield "</trace>\n"
    yield FOOTER


def event_element(event: ProcessEvent) -> str:
    """One event. Resource, duration and cost are left out where there is none."""
    parts = ["<event>\n", _string("concept:name", event.activity)]
    if event.resource:
        parts.append(_string("org:resource", event.resource))
    parts.append(_string("lifecycle:transition", event.lifecycle))
    parts.append(f'<date key="time:timestamp" value="{_date(event.timestamp)}"/>\n')
    if event.duration_ms:
        parts.append(f'<int key="duration_ms" value="{event.duration_ms}"/>\n')
    if event.cost > 0:
        parts.append(f'<float key="cost:total" value="{event.cost!r}"/>\n')
    if event.attributes:
        parts.append(_attributes(event.attributes, _OWN))
    parts.append("</event>\n")
    return "".join(parts)


def printable_text(text: str) -> str:
    """``text`` with U+FFFD for each character that XML cannot carry."""
    return _NO_CHARACTER.sub("\ufffd", text)


def escaped(text: str) -> str:
    """``text`` as it may stand between double quotes."""
    return text if _SPECIAL.search(text) is None else printable_text(text).translate(_ESCAPES)


def _string(key: str, value: str) -> str:
    return f'<string key="{escaped(key)}" value="{escaped(value)}"/>\n'


def _attributes(values: Mapping[str, Any], taken: Collection[str]) -> str:
    """The attributes that have a value, but for keys that are ``taken``; a key stands once in its element."""
    written: dict[str, str] = {}
    for key, value in values.items():
        kind, text = _typed(value)
        if kind and key not in taken:
            name = escaped(key)
            written[name] = f'<{kind} key="{name}" value="{escaped(text)}"/>\n'
    return "".join(written.values())


def _typed(value: Any) -> tuple[str, str]:
    """The element and the text of a value; no element for None. What has no type in XES is JSON text."""
    if value is None:
        return "", ""
    if isinstance(value, bool):
        return "boolean", "true" if value else "false"
    if isinstance(value, int):
        return "int" if value.bit_length() <= _INT_BITS else "string", str(value)
    if isinstance(value, float):
        return "float", repr(value) if math.isfinite(value) else _unbounded(value)
    if isinstance(value, datetime):
        return "date", _date(value)
    return "string", str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _unbounded(value: float) -> str:
    return "NaN" if math.isnan(value) else "INF" if value > 0 else "-INF"


def _date(moment: datetime) -> str:
    return as_utc(moment).isoformat(timespec="milliseconds")
