"""Whether a limit held: handlers were called no faster than it says, over all hosts together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby

from hosts.steps import PACE, Note

#: Seconds over which calls are counted: far more than may lie between a decision and the call.
WINDOW = 10.0
#: Seconds in which a call that was let in begins, and in which a cut is noticed.
_SLACK = 3.0


def too_fast(notes: Sequence[Note], away: Sequence[tuple[float, float]]) -> list[str]:
    """Windows with more calls of a tenant than the limit lets in.

    ``away`` are times in which some host does not reach the server that counts: it then has a share of its own, so
    that all hosts together come to at most twice the limit.
    """
    moments: dict[str, list[float]] = defaultdict(list)
    for note in notes:
        if not note.ended and note.run_id.startswith("limited-") and note.step_id.startswith("w_"):
            moments[note.tenant_id].append(note.at)
    return [line for tenant, at in sorted(moments.items()) for line in _broken(tenant, sorted(at), away)]


def _broken(tenant: str, moments: Sequence[float], away: Sequence[tuple[float, float]]) -> Iterator[str]:
    first = 0
    lines = []
    for number, moment in enumerate(moments):
        while moments[first] < moment - WINDOW:
            first += 1
        shares = 2 if any(begin <= moment and moment - WINDOW <= end + _SLACK for begin, end in away) else 1
        # The bucket is full at first.
        allowed = shares * PACE * (WINDOW + _SLACK + 1)
        calls = number - first + 1
        if calls > allowed:
            lines.append((int(moment), f"tenant {tenant}: {calls} calls in {WINDOW:g} s, at most {allowed:g} allowed"))
    for _, same in groupby(lines, key=lambda line: line[0]):
        yield next(same)[1]
