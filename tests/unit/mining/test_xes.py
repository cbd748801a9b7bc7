"""XES 1.0: well-formed whatever stands in it, typed, in the order that its schema wants, and written piece by piece."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.mining import Case, ProcessEvent, ProcessMiningEngine, xes_parts
from tests.mined import START, at

NAMESPACE = "{http://www.xes-standard.org/}"
ANYTHING = st.text(st.characters(), max_size=40)
#: What people put into names, and parsers trip over.
TRICKY = st.sampled_from(
    ["&", "<", ">", '"', "'", "]]>", "<!--", "&amp;", "\x00", "\x1b[31m", "\n", "\t", "\r\n", " ", "é", "😀"]
)
NAMES = st.builds("".join, st.lists(st.one_of(ANYTHING, TRICKY), max_size=6))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), NAMES, st.datetimes(), st.lists(st.integers(), max_size=3)
)


def parsed(engine: ProcessMiningEngine) -> ET.Element:
    return ET.fromstring(engine.export_xes().encode("utf-8"))


def carried(text: str) -> str:
    """``text`` as XML can carry it (XML 1.0, production 2)."""
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def attributes(element: ET.Element) -> dict[str, tuple[str, str]]:
    """Type and value by key."""
    return {
        one.get("key", ""): (one.tag.removeprefix(NAMESPACE), one.get("value", ""))
        for one in element
        if one.get("key") is not None
    }


@given(NAMES, NAMES, NAMES, st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_names_and_attributes_are_the_log_is_well_formed_and_says_them(
    case: str, activity: str, resource: str, more: dict[str, Any]
) -> None:
    engine = ProcessMiningEngine(name=case)
    engine.record_event(ProcessEvent("e", START, activity, resource, case, attributes=more))

    log = parsed(engine)

    (trace,) = log.findall(f"{NAMESPACE}trace")
    (event,) = trace.findall(f"{NAMESPACE}event")
    found = attributes(event)
    assert attributes(log)["concept:name"] == attributes(trace)["concept:name"] == ("string", carried(case))
    assert found["concept:name"] == ("string", carried(activity))
    assert found.get("org:resource", ("string", ""))[1] == carried(resource)
    assert {carried(key) for key, value in more.items() if value is not None} <= set(found)
    assert len(found) == len(event)


def test_values_keep_their_type() -> None:
    engine = ProcessMiningEngine()
    values = {
        "s": "x", "i": -7, "big": 2**70, "f": 0.1, "inf": float("inf"), "less": float("-inf"), "nan": float("nan"),
        "b": True, "d": at(1.5), "l": [1, "é"], "none": None,
    }  # fmt: skip

    engine.record_event("c", "a", START, attributes=values, cost=2.5, duration_ms=17)

    found = attributes(parsed(engine).findall(f".//{NAMESPACE}event")[0])
    assert {key: found[key] for key in ("s", "i", "big", "f", "inf", "less", "nan", "b", "d", "l")} == {
        "s": ("string", "x"),
        "i": ("int", "-7"),
        "big": ("string", str(2**70)),
        "f": ("float", "0.1"),
        "inf": ("float", "INF"),
        "less": ("float", "-INF"),
        "nan": ("float", "NaN"),
        "b": ("boolean", "true"),
        "d": ("date", "2026-01-01T00:00:01.500+00:00"),
        "l": ("string", '[1, "é"]'),
    }
    assert (found["cost:total"], found["duration_ms"]) == (("float", "2.5"), ("int", "17"))
    assert found["time:timestamp"] == ("date", "2026-01-01T00:00:00.000+00:00")
    assert "none" not in found


def test_an_attribute_cannot_take_the_place_of_what_an_event_is() -> None:
    engine = ProcessMiningEngine()

    engine.record_event("c", "a", START, attributes={"concept:name": "b", "lifecycle:transition": "x"})

    text = engine.export_xes()
    assert attributes(ET.fromstring(text).findall(f".//{NAMESPACE}event")[0])["concept:name"] == ("string", "a")
    assert '"b"' not in text
    assert '"x"' not in text


def test_what_a_log_consists_of_stands_in_the_order_of_its_schema() -> None:
    engine = ProcessMiningEngine(name="p")
    engine.record_event("c", "a", START, cost=1.0)

    log = parsed(engine)

    kinds = [kind for kind, _ in itertools.groupby(one.tag.removeprefix(NAMESPACE) for one in log)]
    assert kinds == ["extension", "global", "classifier", "string", "trace"]
    assert (log.get("xes.version"), log.get("xes.features")) == ("1.0", "")
    assert {one.get("prefix") for one in log.findall(f"{NAMESPACE}extension")} == {
        "concept", "org", "lifecycle", "time", "cost",
    }  # fmt: skip
    required = {
        key for one in log.findall(f"{NAMESPACE}global") if one.get("scope") == "event" for key in attributes(one)
    }
    assert required <= set(attributes(log.findall(f".//{NAMESPACE}event")[0]))


def test_the_text_is_written_as_simple_readers_look_for_it() -> None:
    engine = ProcessMiningEngine()
    engine.record_event("case_1", "a", START)

    text = engine.export_xes()

    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    assert '<trace>\n<string key="concept:name" value="case_1"/>\n' in text
    assert '<string key="lifecycle:transition" value="complete"/>' in text


def test_events_stand_by_time_then_as_they_were_recorded() -> None:
    engine = ProcessMiningEngine()
    for activity, seconds in (("late", 9.0), ("x", 1.0), ("y", 1.0)):
        engine.record_event("c", activity, at(seconds))

    events = parsed(engine).findall(f".//{NAMESPACE}event")

    assert [attributes(event)["concept:name"][1] for event in events] == ["x", "y", "late"]


def test_a_log_is_written_while_it_is_read() -> None:
    read: list[int] = []

    def cases() -> Iterator[Case]:
        for number in itertools.count():
            read.append(number)
            yield Case(f"c{number}", [ProcessEvent(f"e{number}", START, "a", "", f"c{number}")])

    written = list(itertools.islice(xes_parts(cases(), name="endless"), 100))

    assert len(written) == 100
    assert len(read) < 100


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "  a  ", "a\r\nb"])
def test_white_space_in_names_survives_a_parser(name: str) -> None:
    engine = ProcessMiningEngine()
    engine.record_event("c", name, START)

    assert attributes(parsed(engine).findall(f".//{NAMESPACE}event")[0])["concept:name"] == ("string", name)
