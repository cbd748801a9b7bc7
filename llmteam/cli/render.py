"""How values look: tables on a terminal, plain columns in a pipe, JSON when asked for."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from llmteam.telemetry import printable

#: Characters that JSON text may hold as they are, but a terminal takes as orders (DEL and C1).
_STEERING = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}

#: How states and outcomes are coloured on a terminal.
COLOURS = {
    "completed": "green",
    "ok": "green",
    "running": "cyan",
    "ready": "blue",
    "waiting": "magenta",
    "paused": "magenta",
    "retrying": "yellow",
    "warning": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "timeout": "red",
    "error": "red",
    "skipped": "bright_black",
    "pending": "bright_black",
    "info": "bright_black",
}


def say(text: str) -> None:
    """Tell the person at the terminal; standard output stays free for results."""
    click.echo(text, err=True)


def fail(text: str) -> None:
    """Tell what went wrong."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)


def warn(text: str) -> None:
    """Tell what may go wrong."""
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True)


def json_text(value: Any) -> str:
    """``value`` as indented JSON that no terminal takes as orders."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str).translate(_STEERING)


def print_json(value: Any) -> None:
    """Write ``value`` as JSON to standard output."""
    click.echo(json_text(value))


def coloured(word: str) -> str:
    """``word`` in the colour of its meaning; click drops colours where they are not wanted."""
    return click.style(word, fg=COLOURS[word]) if word in COLOURS else word


def cell(value: object) -> str:
    """A value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, timedelta):
        return duration(value.total_seconds())
    return printable(str(value))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Write rows in columns: cut to the width of a terminal, whole in a pipe. ``empty`` is said when there are none."""
    if not rows:
        say(empty)
        return
    texts = [[cell(value) for value in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(headings), *texts]) for index in range(len(headings))]
    if sys.stdout.isatty():
        widths[-1] = max(len(headings[-1]), min(widths[-1], _width() - sum(widths[:-1]) - 2 * (len(widths) - 1)))
    click.echo(click.style(_line(headings, widths), bold=True))
    for row in texts:
        click.echo(_line(row, widths, colour=True))


def _width() -> int:
    return shutil.get_terminal_size().columns


def _line(row: Sequence[str], widths: Sequence[int], *, colour: bool = False) -> str:
    parts = []
    for text, width in zip(row, widths, strict=True):
        cut = text if len(text) <= width else text[: width - 1] + "…"
        parts.append((coloured(cut) if colour else cut) + " " * (width - len(cut)))
    return "  ".join(parts).rstrip()


def pairs(values: Mapping[str, object]) -> None:
    """Write names and values, one pair a line; values that are missing are left out."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if value is not None:
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {coloured(cell(value))}")


def moment(when: datetime) -> str:
    """A moment to the second, in UTC."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def steps_done(completed: int, total: int) -> str:
    """How far a run is; a loop completes steps more often than there are steps."""
    return f"{completed} of {total} steps" if completed <= total else f"{total} steps, {completed} times in all"


def duration(seconds: float) -> str:
    """A length of time in a person's units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
