"""Reports: what is counted stays bounded, ways do not depend on who was faster, and pages escape what they show."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmteam.mining import report as counting
from llmteam.mining.page import page, seconds_text
from llmteam.mining.pictures import bars, process_map
from llmteam.mining.records import StoredEvent, StoredRun
from llmteam.mining.replay import Net
from llmteam.mining.report import Report
from llmteam.mining.waits import Cause
from tests.mined import START, at, drawn_net, told

BRANCHES = drawn_net("split_1 -> x -> all_1", "split_1 -> y -> all_1", "all_1 -> end")
SPLIT = ("0 step.started split_1", "1 step.completed split_1")
JOIN = (
    *("5 step.started all_1", "5 step.completed all_1", "6 step.started end", "7 step.completed end"),
    "7 segment.completed",
)
X = ("2 step.started x", "3 step.completed x")
Y = ("2 step.started y", "4 step.completed y")
NAMES = st.text(st.characters(), max_size=30)


def run(
    events: Iterable[StoredEvent], run_id: str = "run", segment: str = "seg", status: str = "completed"
) -> StoredRun:
    return StoredRun("acme", run_id, segment, status, "h", None, START, START, at(10), list(events))


def report(*runs: StoredRun, net: Net | None = BRANCHES) -> Report:
    found = Report()
    for one in runs:
        found.add(one, net)
    return found


def test_ways_do_not_depend_on_which_branch_was_faster() -> None:
    found = report(run(told(*SPLIT, *X, *Y, *JOIN), "first"), run(told(*SPLIT, *Y, *X, *JOIN), "second"))

    (variant,) = found.segments["seg"].common()
    assert (variant.steps, variant.runs, variant.example) == (("split_1", "x", "y", "all_1", "end"), 2, "first")
    assert variant.seconds.value == 10.0
    assert found.deviating == 0


def test_the_same_way_to_another_end_is_another_variant() -> None:
    events = told(*SPLIT, *X)

    found = report(run(events, status="failed"), run(events, status="cancelled"))

    assert {one.status for one in found.segments["seg"].common()} == {"failed", "cancelled"}


def test_the_map_has_the_edges_that_runs_followed_and_no_jumps_between_branches() -> None:
    found = report(run(told(*SPLIT, *X, *Y, *JOIN)))

    assert found.segments["seg"].edges == {
        ("split_1", "x"): 1, ("split_1", "y"): 1, ("x", "all_1"): 1, ("y", "all_1"): 1, ("all_1", "end"): 1,
    }  # fmt: skip


def test_without_a_definition_the_map_is_what_followed_what_and_nothing_is_said_to_fit() -> None:
    found = report(run(told(*SPLIT, *X)), net=None)

    segment = found.segments["seg"]
    assert segment.edges == {("split_1", "x"): 1}
    assert (segment.conformance.checked, segment.conformance.unknown) == (0, 1)
    assert segment.document()["conformance"]["fitness"] is None


def test_a_run_that_deviates_is_named_with_what_it_did() -> None:
    found = report(run(told(*SPLIT, *X, *JOIN), "odd"), run(told(*SPLIT, *X, *Y, *JOIN), "even"))

    (one,) = found.segments["seg"].conformance.deviating
    assert (found.deviating, one.run_id) == (1, "odd")
    assert {each.what for each in one.deviations} >= {"'y' before it was not over"}
    assert one.fitness < 1.0


def test_segments_are_told_apart() -> None:
    found = report(run(told(*SPLIT), segment="b"), run(told(*SPLIT), segment="a"))

    assert [one.segment_id for one in found.ordered()] == ["a", "b"]


def test_what_is_kept_does_not_grow_with_the_number_of_ways(monkeypatch: Any) -> None:
    monkeypatch.setattr(counting, "VARIANTS", 5)
    monkeypatch.setattr(counting, "LISTED", 3)

    found = report(*(run(told(f"0 step.started s{n}", f"1 step.completed s{n}"), f"r{n}") for n in range(20)))

    segment = found.segments["seg"]
    assert (len(segment.variants), segment.other_variants, segment.runs) == (5, 15, 20)
    assert (len(segment.conformance.deviating), found.deviating) == (3, 20)


def test_a_very_long_way_is_named_by_its_beginning_and_told_from_others() -> None:
    steps = [f"{n} step.completed s{n}" for n in range(200)]

    found = report(run(told(*steps)), run(told(*steps[:-1])), net=None)

    ways = found.segments["seg"].common()
    assert sorted((len(one.steps), one.more) for one in ways) == [(60, 139), (60, 140)]


def test_a_document_is_json() -> None:
    document = report(run(told(*SPLIT, *X, *Y, *JOIN))).document()

    assert json.loads(json.dumps(document)) == document
    assert document["segments"][0]["seconds_by_cause"]["work"] == 5.0


def parsed(html: str) -> ET.Element:
    """The page as XML, which it is but for its first line and what needs no end."""
    body = html.removeprefix("<!DOCTYPE html>\n")
    for tag in ("meta",):
        body = "".join(
            part if at == 0 else f"<{tag}" + part.replace(">", "/>", 1) for at, part in enumerate(body.split(f"<{tag}"))
        )
    return ET.fromstring(body.encode("utf-8"))


@given(NAMES, NAMES, NAMES)
def test_whatever_names_are_a_page_is_well_formed_and_shows_them_as_text(segment: str, step: str, error: str) -> None:
    name = f"<b>&{step}"
    events = [
        StoredEvent("r", 1, "step.started", at(0), name, "work", 1),
        StoredEvent("r", 2, "step.failed", at(1), name, "work", 1, error=error),
        StoredEvent("r", 3, "step.completed", at(2), f'"{name}', "work", 1),
    ]

    html = page(report(run(events, "<script>", segment)), tenant=segment, made_at=START)

    root = parsed(html)
    assert root.tag == "html"
    assert not list(root.iter("script"))
    assert not list(root.iter("b"))
    assert "&lt;script&gt;" in html


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40))
def test_a_map_of_any_shape_has_every_step_once_within_its_frame(pairs: list[tuple[int, int]]) -> None:
    edges = {(f"s{a}", f"s{b}"): a + b + 1 for a, b in pairs}

    drawn = process_map({"s0": 3}, edges, "m")

    root = ET.fromstring(drawn.svg)
    left, _, wide, high = map(float, (root.get("viewBox") or "").split())
    boxes = [(float(one.get("x", "")), float(one.get("y", ""))) for one in root.iter("rect")]
    assert len(boxes) == len(set(boxes)) == len({"s0", *(name for edge in edges for name in edge)})
    assert all(x >= left and x + 150 <= left + wide and y >= 0 and y + 40 <= high for x, y in boxes)
    assert sum(1 for one in root.iter("path") if one.get("class") == "edge") == len(edges)


def test_a_map_leaves_the_rarest_out_and_says_how_many() -> None:
    steps = {f"s{n}": 100 - n for n in range(70)}

    drawn = process_map(steps, {("s0", "s69"): 1, ("s0", "s1"): 5}, "m")

    assert drawn.left_out == 11
    assert "s69" not in drawn.svg


def test_a_bar_says_in_words_what_it_shows() -> None:
    svg = bars([("pay & go", {Cause.HUMAN: 30.0, Cause.WORK: 10.0})], "b")

    titles = [one.text for one in ET.fromstring(svg).iter("title")]
    assert titles[1:] == ["pay & go: waiting for a person, 30.0 s", "pay & go: handlers at work, 10.0 s"]


def test_times_are_told_in_a_persons_units() -> None:
    assert [seconds_text(one) for one in (0.0305, 5, 300, 90_000)] == ["30 ms", "5.0 s", "5.0 min", "25.0 h"]
