"""Starts that happen once, and what they do about the run that is there already; in memory and in Postgres alike."""

from __future__ import annotations

from typing import Any

import pytest

from llmteam.canvas.exceptions import AlreadyRunningError
from llmteam.canvas.runs import Start, StartRules
from llmteam.canvas.state import SegmentStatus
from llmteam.events.models import EventType
from llmteam.ids import InvalidIdentifierError
from tests.conformance.desk import TENANT, at_once
from tests.conformance.ward import Ward
from tests.drawing import draw

ROW = draw("a -> b")
OTHER = draw("a -> b -> c")


def start(ward: Ward, name: str, by: str = "key", *, given: Any = 1, segment: Any = ROW, **rules: Any) -> str:
    """Start a run under a name: its own id, or an idempotency key."""
    names = {"run_id": name} if by == "id" else {"idempotency_key": name}
    return ward.runs.start(Start(TENANT, segment, given, rules=StartRules(**rules), **names))


def end(ward: Ward, run_id: str, how: str) -> None:
    if how == "completed":
        ward.do(run_id, "a", "b")
    elif how == "failed":
        ward.engine.failed(ward.claim(run_id, "a"), InvalidIdentifierError("answer", ""))
    else:
        ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)
    assert ward.status(run_id) == how


def count(ward: Ward) -> int:
    return len(ward.store.records(TENANT))


@pytest.mark.parametrize("by", ["id", "key"])
@pytest.mark.parametrize("how", ["open", "completed", "failed", "cancelled"])
def test_a_second_start_gives_the_run_of_the_first(ward: Ward, by: str, how: str) -> None:
    first = start(ward, "order-17", by)
    if how != "open":
        end(ward, first, how)

    assert start(ward, "order-17", by) == first

    assert count(ward) == 1
    assert ward.kinds(first).count(EventType.SEGMENT_STARTED) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "two\nlines", "null\x00"])
def test_a_key_that_cannot_be_kept_is_refused_with_what_may_be(ward: Ward, key: str) -> None:
    rule = r"idempotency_key .* is not usable: 1 to 255 printable characters"
    with pytest.raises(InvalidIdentifierError, match=rule):
        start(ward, key)

    assert count(ward) == 0


@pytest.mark.parametrize("rules", [{"if_open": "restart_failed"}, {"if_closed": "retrun"}])
def test_a_rule_that_is_none_is_refused_by_name(rules: dict[str, Any]) -> None:
    (name,) = rules

    with pytest.raises(ValueError, match=f"{name} is '{rules[name]}'; it must be one of return, fail, restart"):
        StartRules(**rules)


@pytest.mark.parametrize("by", ["id", "key"])
def test_the_same_name_for_another_start_is_refused(ward: Ward, by: str) -> None:
    start(ward, "order-17", by)

    with pytest.raises(AlreadyRunningError):
        start(ward, "order-17", by, given=2)
    with pytest.raises(AlreadyRunningError):
        start(ward, "order-17", by, segment=OTHER)

    assert count(ward) == 1


@pytest.mark.parametrize("by", ["id", "key"])
def test_a_start_that_must_be_the_first_is_refused_when_it_is_not(ward: Ward, by: str) -> None:
    first = start(ward, "order-17", by, if_open="fail", if_closed="fail")

    with pytest.raises(AlreadyRunningError):
        start(ward, "order-17", by, if_open="fail")
    assert start(ward, "order-17", by, if_closed="fail") == first, "the rule for closed runs says nothing of open ones"
    end(ward, first, "completed")
    with pytest.raises(AlreadyRunningError):
        start(ward, "order-17", by, if_closed="fail")
    assert start(ward, "order-17", by, if_open="fail") == first


def test_a_restart_cancels_the_open_run_and_takes_its_key(ward: Ward) -> None:
    first = start(ward, "order-17")

    second = start(ward, "order-17", given=2, if_open="restart")

    assert ward.status(first) is SegmentStatus.CANCELLED
    record = ward.record(second)
    assert (record.status, record.idempotency_key) == (SegmentStatus.RUNNING, "order-17")
    assert (record.link, record.parent_run_id, record.root_run_id) == ("restart", first, second)
    assert ward.record(first).idempotency_key is None
    assert ward.claim(second, "a").input == 2
    assert start(ward, "order-17", given=2) == second


def test_a_paused_run_counts_as_open(ward: Ward) -> None:
    first = start(ward, "order-17")
    ward.surgery.pause(TENANT, first, grace=0.0)

    assert start(ward, "order-17", if_closed="restart") == first
    second = start(ward, "order-17", if_open="restart")

    assert (second != first, ward.status(first)) == (True, SegmentStatus.CANCELLED)


@pytest.mark.parametrize(
    ("how", "rule", "anew"),
    [
        ("completed", "restart", True),
        ("failed", "restart", True),
        ("completed", "restart_failed", False),
        ("failed", "restart_failed", True),
        ("cancelled", "restart_failed", True),
    ],
)
def test_a_closed_run_is_started_anew_when_the_rule_says_so(ward: Ward, how: str, rule: str, anew: bool) -> None:
    first = start(ward, "order-17")
    end(ward, first, how)

    second = start(ward, "order-17", if_closed=rule)

    assert (second != first) is anew
    assert ward.status(first) == how, "what is over stays as it is"
    assert start(ward, "order-17", if_closed="return") == second


@pytest.mark.parametrize("rules", [{"if_open": "restart"}, {"if_closed": "restart"}])
def test_a_run_id_names_one_run_for_ever(ward: Ward, rules: dict[str, str]) -> None:
    first = start(ward, "order-17", "id")
    if "if_closed" in rules:
        end(ward, first, "failed")

    with pytest.raises(AlreadyRunningError):
        start(ward, "order-17", "id", **rules)

    assert count(ward) == 1
    assert ward.status(first) is not SegmentStatus.CANCELLED


@pytest.mark.parametrize("by", ["id", "key"])
def test_of_many_starts_at_once_one_makes_a_run(ward: Ward, by: str) -> None:
    found = at_once([lambda: start(ward, "order-17", by) for _ in range(8)])

    assert len(set(found)) == 1
    assert count(ward) == 1
    assert ward.hinted() == ["a"]


def test_of_many_restarts_at_once_one_run_is_left_that_is_open(ward: Ward) -> None:
    start(ward, "order-17")

    def restart() -> str | None:
        try:
            return start(ward, "order-17", if_open="restart", if_closed="restart")
        except AlreadyRunningError:
            return None

    at_once([restart for _ in range(4)])

    open_ = ward.store.records(TENANT, status=SegmentStatus.RUNNING)
    assert [record.idempotency_key for record in open_] == ["order-17"]
    assert {record.idempotency_key for record in ward.store.records(TENANT)} == {"order-17", None}


def test_tenants_have_names_of_their_own(ward: Ward) -> None:
    mine = start(ward, "order-17")

    theirs = ward.runs.start(Start("globex", ROW, 1, idempotency_key="order-17"))

    assert theirs != mine
    assert ward.store.record("globex", mine) is None


def test_a_key_that_cannot_be_kept_is_refused(ward: Ward) -> None:
    for key in ("", "x" * 256, "line\nbreak"):
        with pytest.raises(InvalidIdentifierError):
            start(ward, key)

    assert count(ward) == 0
