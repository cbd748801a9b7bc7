"""Hints: the messages that ask a worker to look at a step. They carry ids, never data, and may be lost or doubled.

This module is the only one that addresses tasks; it does so by name, so that nothing below the workers imports them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from celery import Celery, Signature

logger = logging.getLogger(__name__)

RUN_STEP = "llmteam.run_step"
START_RUN = "llmteam.start_run"

CONTROL_QUEUE = "llmteam.control"
IO_QUEUE = "llmteam.io"
LLM_QUEUE = "llmteam.llm"
DEFAULT_QUEUE = "llmteam.default"
QUARANTINE_QUEUE = "llmteam.quarantine"
QUEUES = (CONTROL_QUEUE, IO_QUEUE, LLM_QUEUE, DEFAULT_QUEUE, QUARANTINE_QUEUE)


@dataclass(frozen=True, slots=True)
class Hint:
    """Look at this step of this run: it may be due."""

    tenant_id: str
    run_id: str
    step_id: str
    visit: int
    queue: str

    @property
    def args(self) -> tuple[str, str, str, int]:
        return (self.tenant_id, self.run_id, self.step_id, self.visit)


@dataclass(frozen=True, slots=True)
class Chord:
    """The hints of a split's branch heads, and the hint of the join that they bring when all have returned."""

    chord_id: str
    heads: Sequence[Hint]
    body: Hint


class Dispatcher(Protocol):
    """Sends hints. Errors are the caller's to swallow: a hint that is lost is sent again by a sweep."""

    def send(self, hints: Sequence[Hint]) -> None: ...

    def send_chord(self, chord: Chord) -> None: ...
