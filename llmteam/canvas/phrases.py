"""Moments, lengths, counts and lists in the words of a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

#: Names that a sentence says before it counts the others.
FEW = 3

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def length(seconds: float) -> str:
    """A length of time, not more exact than it has to be: ``12 s``, ``2 min 03 s``, ``5 h 10 min``, ``3 days``."""
    whole = round(abs(seconds))
    if whole == 0:
        return "less than a second"
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    if whole < 2 * _DAY:
        minutes = round(whole / _MINUTE)
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(whole / _DAY)} days"


def moment(when: datetime, now: datetime) -> str:
    """A moment in UTC, and how far it is away: ``17:36:52Z (in 18 s)``, with its date when that is another one."""
    there, here = when.astimezone(UTC), now.astimezone(UTC)
    clock = f"{there:%H:%M:%S}Z" if there.date() == here.date() else f"{there:%Y-%m-%d %H:%M:%S}Z"
    distance = (there - here).total_seconds()
    if round(distance) == 0:
        return f"{clock} (now)"
    return f"{clock} (in {length(distance)})" if distance > 0 else f"{clock} ({length(distance)} ago)"


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 step``, ``10,000 steps``; ``many`` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(numbers: Iterable[int]) -> str:
    """``2``, or ``2 to 5``."""
    found = sorted(set(numbers))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def times(numbers: Iterable[int]) -> str:
    """``once``, ``3 times``, ``1 to 4 times``."""
    found = span(numbers)
    return "once" if found == "1" else f"{found} times"


def listed(words: Sequence[str], few: int = FEW) -> str:
    """``a``, ``a and b``, ``a, b, c and 9,997 more``; one more is named rather than counted."""
    if len(words) <= few + 1:
        return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
    return f"{', '.join(words[:few])} and {len(words) - few:,} more"
