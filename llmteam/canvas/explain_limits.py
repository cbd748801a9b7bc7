"""Which limit steps wait for, what of it, and when they ask again, as sentences."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from llmteam.canvas.explain_picture import Picture, Steps, first_of, says_late_sweep
from llmteam.canvas.records import StepRecord
from llmteam.canvas.state import StepRow

#: What of a limit keeps a step waiting.
_REASONS: Mapping[str, str] = {
    "bucket": "calls come as fast as its rate allows",
    "second": "it has had as many calls as fit into one second",
    "minute": "it has had as many calls as fit into one minute",
    "hour": "it has had as many calls as fit into one hour",
    "in_flight": "as many calls as it takes at once are being made",
    "circuit": "its circuit is open after too many failures",
    "backend": "Redis, where it is counted, does not answer",
}


@dataclass(frozen=True, slots=True)
class Delay:
    """What a step was told when it was parked: ``limit``, what of it, how many waited before it, and when."""

    limit: str
    limited_by: str
    position: int
    since: datetime


def delayed_by(picture: Picture, step: StepRecord) -> Hashable:
    """Steps that wait for the same limit are told together."""
    delay = picture.delays.get(step.row.key)
    return None if delay is None else (delay.limit, delay.limited_by)


def delayed_since(picture: Picture, row: StepRow) -> datetime | None:
    """When the step was parked."""
    delay = picture.delays.get(row.key)
    return row.ready_at if delay is None else delay.since


def says_delayed(picture: Picture, steps: Steps) -> Iterator[str]:
    """Of steps that wait for room under a limit."""
    since = first_of(delayed_since(picture, step.row) for step in steps)
    when = "an unknown time" if since is None else picture.at(since)
    found = [delay for delay in (picture.delays.get(step.row.key) for step in steps) if delay is not None]
    if found:
        reason = _REASONS.get(found[0].limited_by, "it has no room")
        yield f"Waiting for room under the limit '{found[0].limit}' since {when}: {reason}."
    else:
        yield f"Waiting for room under a limit since {when}."
    if len(found) == 1 and len(steps) == 1 and found[0].position:
        yield f"{found[0].position} others waited before it then."
    until = first_of(step.row.wake_at for step in steps)
    if until is not None:
        yield f"At {picture.at(until)} it asks again, in its turn; no worker is held and no attempt used up."
        if until < picture.now:
            yield from says_late_sweep(picture, "due")
