"""What the commands of trials have in common: one run of it, its table, its figures and its exit code."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar

import click
from rich.console import Console

from llmteam.errors import LLMTeamError


class Found(Protocol):
    """What a trial found."""

    @property
    def passed(self) -> bool: ...

    def document(self) -> dict[str, Any]: ...


F = TypeVar("F", bound=Found)


def play(
    words: str, trial: Callable[[Callable[[str], None]], F], show: Callable[[Console, F], None], target: Path | None
) -> NoReturn:
    """Say ``words``, run ``trial``, which tells how far it is, and show what it found; ``target`` gets all figures.

    Exits with 0 if every promise held and with 1 if not, or if the trial could not be made.
    """
    signal.signal(signal.SIGTERM, _leave)
    console, progress = Console(width=None if sys.stdout.isatty() else 130), Console(stderr=True)
    console.print(words, highlight=False)
    try:
        with progress.status("starting") as status:
            found = trial(status.update)
    except LLMTeamError as exc:
        raise click.ClickException(str(exc)) from None
    show(console, found)
    if target is not None:
        target.write_text(json.dumps(found.document(), indent=2) + "\n")
    sys.exit(0 if found.passed else 1)


def _leave(number: int, frame: FrameType | None) -> None:
    """Stop like Ctrl-C does: workers and servers are taken down on the way out."""
    raise KeyboardInterrupt
