"""A broker that promises nothing: messages are lost, doubled, late and out of order, and all of them may be gone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmteam.dispatch import Chord, Hint

if TYPE_CHECKING:
    from tests.simulated.actors import Worker
    from tests.simulated.faults import Faults
    from tests.simulated.schedule import Schedule
    from tests.simulated.witness import Witness


@dataclass(frozen=True, slots=True)
class Message:
    """A hint on its way; ``chord_id`` when it is a header of a chord."""

    hint: Hint
    chord_id: str | None = None


class Broker:
    """Queues by name, and counters of chords. ``sent`` counts what was published, by hint."""

    def __init__(self, schedule: Schedule, faults: Faults, witness: Witness) -> None:
        self._schedule, self._faults, self._witness = schedule, faults, witness
        self.consumers: list[Worker] = []
        self.queues: dict[str, list[Message]] = {}
        self.sent: Counter[Hint] = Counter()
        self._chords: dict[str, tuple[int, Hint]] = {}
        self._flushes = 0

    def begin_chord(self, chord: Chord) -> None:
        self._chords[chord.chord_id] = (len(chord.heads), chord.body)

    def publish(self, hint: Hint, chord_id: str | None = None, *, is_body: bool = False) -> None:
        """Take a message, or lose it, or two of it, sooner or later."""
        self.sent[hint] += 1
        if not is_body:
            self._witness.hinted(hint)
        message, rates, chance = Message(hint, chord_id), self._faults.rates, self._faults.chance
        if not self._faults.on:
            self._deliver(message, 0.002)
            return
        if chance.random() < rates.lose:
            return
        for _ in range(2 if chance.random() < rates.double else 1):
            late = chance.random() < rates.delay
            self._deliver(message, chance.choice((0.5, 5.0, 60.0)) if late else chance.uniform(0.001, 0.02))

    def _deliver(self, message: Message, seconds: float) -> None:
        flushes = self._flushes

        def arrive() -> None:
            if self._flushes == flushes:
                self.queues.setdefault(message.hint.queue, []).append(message)
                self.pump()

        self._schedule.after(seconds, arrive)

    def pump(self) -> None:
        """Hand out what workers have room for."""
        chance, shuffle = self._faults.chance, self._faults.rates.shuffle if self._faults.on else 0.0
        for name, waiting in self.queues.items():
            while waiting:
                free = [worker for worker in self.consumers if worker.takes(name)]
                if not free:
                    break
                place = chance.randrange(len(waiting)) if chance.random() < shuffle else 0
                free[chance.randrange(len(free))].receive(waiting.pop(place))

    def returned(self, message: Message) -> None:
        """A worker is done with a message; the last header of a chord brings its body."""
        if message.chord_id is None or message.chord_id not in self._chords:
            return
        left, body = self._chords[message.chord_id]
        self._chords[message.chord_id] = (left - 1, body)
        if left == 1:
            del self._chords[message.chord_id]
            self.publish(body, is_body=True)

    def flush(self) -> None:
        """Forget everything, as FLUSHALL does."""
        self._flushes += 1
        self._chords.clear()
        for waiting in self.queues.values():
            waiting.clear()
