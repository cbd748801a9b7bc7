"""The check of a limit finds calls that came too fast, over all hosts together, for each tenant."""

from __future__ import annotations

from hosts.pace import WINDOW, too_fast
from hosts.steps import PACE, Note


def calls(per_second: float, *, tenant: str = "alpha", host: str = "a", seconds: int = 30) -> list[Note]:
    """So many calls of limited steps each second from the moment 1000 on."""
    count = round(per_second * seconds)
    return [
        Note(host, tenant, "limited-1-0001", "w_1", ended=False, at=1000 + number / per_second)
        for number in range(count)
    ]


def test_calls_at_the_pace_are_no_finding() -> None:
    assert too_fast(calls(PACE), []) == []


def test_calls_of_two_hosts_count_together() -> None:
    notes = calls(PACE, host="a") + calls(PACE, host="b")

    found = too_fast(notes, [])

    assert found
    assert all(f"in {WINDOW:g} s" in line and "alpha" in line for line in found)


def test_each_tenant_has_the_limit_for_itself() -> None:
    assert too_fast(calls(PACE, tenant="alpha") + calls(PACE, tenant="beta"), []) == []


def test_while_a_host_counts_for_itself_it_may_be_twice_as_many_and_no_more() -> None:
    away = [(1000.0, 1030.0)]

    assert too_fast(calls(2 * PACE), away) == []
    assert too_fast(calls(4 * PACE), away)


def test_other_steps_and_the_ends_of_calls_do_not_count() -> None:
    ended = [Note(note.host, note.tenant_id, note.run_id, note.step_id, ended=True, at=note.at) for note in calls(PACE)]
    others = [Note("a", "alpha", "probe-1-0002", "call_1", ended=False, at=note.at) for note in calls(PACE)]

    assert too_fast(calls(PACE) + ended + others, []) == []
