"""What goes out after a commit, never before: wake-ups for those who wait, and the hints of what became ready.

The ready rows themselves are the outbox of the transaction; what gets lost here, a sweep sends again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from llmteam.canvas import counting
from llmteam.canvas.graph import Graph
from llmteam.canvas.state import Change, Key, RunState, StepRow, StepState
from llmteam.dispatch import QUARANTINE_QUEUE, Chord, Dispatcher, Hint
from llmteam.ids import Clock
from llmteam.regions import queue_in

logger = logging.getLogger(__name__)

#: Told (tenant, run, whether it is over) after each commit that wrote events.
Notify = Callable[[str, str, bool], None]
#: Asked to send a hint at a moment that lies ahead.
Alarm = Callable[[datetime, Hint], None]


def hint_of(tenant_id: str, run: RunState, graph: Graph, key: Key, row: StepRow | None = None) -> Hint:
    """The hint of a step, to where its run belongs; one that took its workers with it goes to the quarantine."""
    apart = row is not None and row.quarantined
    queue = QUARANTINE_QUEUE if apart else graph.nodes[key[0]].facts.queue
    return Hint(tenant_id, run.run_id, *key, queue_in(queue, run.region))


class Outbox:
    """Sends what follows from changes that are committed. Never raises: what is due is written."""

    def __init__(self, dispatcher: Dispatcher, *, notify: Notify, alarm: Alarm, clock: Clock) -> None:
        self.notify = notify
        self.alarm = alarm
        self._dispatcher = dispatcher
        self._clock = clock

    def send(self, tenant_id: str, graph: Graph, change: Change) -> None:
        """Tell whoever waits, and send the hints of the change."""
        self.tell(tenant_id, change)
        for row in change.steps.values():
            timed = row.state is StepState.READY or row.owner == "limit"
            if timed and row.wake_at is not None and row.key not in change.ready:
                self.alarm(row.wake_at, hint_of(tenant_id, change.run, graph, row.key, row))
        hints = {key: hint_of(tenant_id, change.run, graph, key, change.steps.get(key)) for key in change.ready}
        if change.chord is not None:
            self._send_chord(_chord(tenant_id, graph, change, hints))
        self.send_hints(list(hints.values()))

    def tell(self, tenant_id: str, change: Change) -> None:
        """Count what happened, and wake whoever follows the run."""
        counting.changed(change)
        if change.events or change.hold is not None:
            self.notify(tenant_id, change.run.run_id, change.ended)

    def send_ready(self, tenant_id: str, run: RunState, graph: Graph, rows: Sequence[StepRow]) -> None:
        """Send the hints of these ready steps of a run, of those that wait for a moment when it comes."""
        now, due = self._clock(), []
        for row in rows:
            hint = hint_of(tenant_id, run, graph, row.key, row)
            if row.owner == "timer" and row.wake_at is not None and row.wake_at > now:
                self.alarm(row.wake_at, hint)
            else:
                due.append(hint)
        self.send_hints(due)

    def send_hints(self, hints: Sequence[Hint]) -> None:
        """Send hints; those that the broker does not take are sent again by a sweep."""
        if hints:
            try:
                self._dispatcher.send(hints)
            except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises, what is due is written
                logger.warning("%d hints not sent (%s); a sweep sends them again", len(hints), exc)

    def _send_chord(self, chord: Chord) -> None:
        try:
            self._dispatcher.send_chord(chord)
        except Exception as exc:  # noqa: BLE001  # as above
            logger.warning("a chord of %d hints not sent (%s); a sweep sends them again", len(chord.heads), exc)


def _chord(tenant_id: str, graph: Graph, change: Change, hints: dict[Key, Hint]) -> Chord:
    """The chord of the split that is over; takes its heads out of ``hints``."""
    assert change.chord is not None
    marked = [key for key, row in change.steps.items() if row.chord_id == change.chord]
    split = next(key for key in marked if key[0] in graph.chords)
    body = hint_of(tenant_id, change.run, graph, (graph.chords[split[0]], split[1]))
    return Chord(change.chord, [hints.pop(key) for key in marked if key in hints], body)
