"""Segments and inputs as they are named on the command line: files, standard input, published ids, examples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmteam.canvas.phrases import count
from llmteam.cli.render import coloured
from llmteam.telemetry import printable

if TYPE_CHECKING:
    from llmteam.canvas.validation import ValidationResult


def is_file(source: str) -> bool:
    """Whether ``source`` means a file (``-`` is standard input) rather than a published segment."""
    return source == "-" or source.endswith(".json") or "/" in source or Path(source).is_file()


def read_text(source: str, what: str) -> bytes:
    """The content of a file, or of standard input for ``-``. A file that cannot be read is wrong usage."""
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as exc:
        raise click.UsageError(f"{what} {source!r} cannot be read: {exc.strerror}") from None


def read_document(source: str) -> Any:
    """The JSON document of a file. Raises :class:`SegmentSyntaxError` with line and column."""
    from llmteam.canvas.documents import parse_document

    return parse_document(read_text(source, "segment"))


def read_input(argument: str | None, option: str = "--input") -> Any:
    """The value of an option: JSON text, ``@file``, or ``-`` for standard input. Nothing given is null."""
    if argument is None:
        return None
    from llmteam import codec

    from_file = argument == "-" or argument.startswith("@")
    text = read_text(argument.removeprefix("@"), option.removeprefix("--")) if from_file else argument
    where = f"{argument}: " if from_file else ""
    try:
        return codec.loads(text)
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno}, column {exc.colno}"
        hint = "" if from_file else " (a text needs its quotes: '\"text\"'; a file is @file)"
        raise click.UsageError(f"{option}: {where}{place}: not JSON: {exc.msg}{hint}") from None
    except (ValueError, RecursionError) as exc:
        raise click.UsageError(f"{option}: {where}not JSON: {str(exc) or 'nested too deeply'}") from None


def report_problems(result: ValidationResult, name: str, *, err: bool) -> None:
    """Write every problem with severity, code, JSON path and suggestion."""
    for message in result.messages:
        place = f" at {message.path}" if message.path else ""
        click.echo(f"{coloured(message.severity.value)} {message.code}{printable(place)}", err=err)
        click.echo(f"  {printable(message.message)}", err=err)
        if message.suggestion:
            click.echo(f"  → {printable(message.suggestion)}", err=err)
    counts = f"{count(len(result.errors), 'error')}, {count(len(result.warnings), 'warning')}"
    click.echo(f"{name}: {'valid' if result.is_valid else 'not valid'} ({counts})", err=err)
