"""Token replay: whether the events of a run are what its definition allows. Pure.

Every edge is a place. A step that is over puts a token on each edge that leaves it: live, dead or failed, as its row
says, or of any kind where no row does. A step that starts, or is skipped, takes one token from each edge into it. One
that is not there is *missing*, one that should have been taken and was not is *remaining*. Fitness is that of Rozinat
and van der Aalst, Conformance checking of processes based on monitoring real behavior (2008):
``(1 - missing / consumed) / 2 + (1 - remaining / produced) / 2``.

Events are numbered without gaps, so a number that is not there is a missing token too. Neither is the last one left
out unseen: a run that is over by its row has an event that says so.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from llmteam.events.models import EventType
from llmteam.mining.records import Key, StoredEvent

#: The last event of a run by its status.
_LAST = {
    "completed": EventType.SEGMENT_COMPLETED,
    "failed": EventType.SEGMENT_FAILED,
    "timeout": EventType.SEGMENT_FAILED,
    "cancelled": EventType.SEGMENT_CANCELLED,
}


class Token(Enum):
    """What became of an edge. ``FAILED`` is dead by a failure, ``ANY`` not known."""

    DEAD = 0
    LIVE = 1
    FAILED = 2
    ANY = 3


@dataclass(frozen=True, slots=True)
class NetEdge:
    """One edge; ``back`` says that it closes a loop."""

    source: str
    target: str
    back: bool = False


@dataclass(frozen=True, slots=True)
class NetStep:
    """One step. ``ins`` and ``outs`` are numbers of edges, ``outs`` in the order of the step's decisions.

    ``early``: a join that the first live edge makes ready. ``quiet``: it may be cancelled without an event, since it
    lies behind a split that such a join ends. ``body`` are the steps of the loop that it is the way into.
    """

    step_id: str
    ins: tuple[int, ...] = ()
    outs: tuple[int, ...] = ()
    early: bool = False
    quiet: bool = False
    reachable: bool = True
    body: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Net:
    """A definition for replay; steps in topological order."""

    entry: str
    steps: Mapping[str, NetStep]
    edges: tuple[NetEdge, ...]


@dataclass(frozen=True, slots=True)
class Deviation:
    """One thing that the definition does not allow; ``seq`` is the event's number, None for what is left at the end."""

    seq: int | None
    step_id: str
    what: str


@dataclass(slots=True)
class Replayed:
    """What came of a replay. ``followed`` counts the edges along which the run went."""

    produced: int = 0
    consumed: int = 0
    missing: int = 0
    remaining: int = 0
    deviations: list[Deviation] = field(default_factory=list)
    followed: Counter[tuple[str, str]] = field(default_factory=Counter)
    path: list[str] = field(default_factory=list)

    @property
    def fitness(self) -> float:
        """1.0 when every event fits and none is missing, down to 0.0."""
        lack = self.missing / self.consumed if self.consumed else 0.0
        left = self.remaining / self.produced if self.produced else 0.0
        return max(0.0, (1 - lack) / 2 + (1 - left) / 2)


def replay(net: Net, events: Iterable[StoredEvent], *, status: str, linked: bool = False) -> Replayed:
    """Play the events of one run. ``linked``: it took steps over from another run, of which it has no events."""
    player = Player(net, linked=linked)
    for event in events:
        player.feed(event)
    return player.finish(status)


class Player:
    """The replay of one run, event by event."""

    def __init__(self, net: Net, *, linked: bool = False) -> None:
        self._net = net
        self._linked = linked
        self._tokens: dict[int, deque[Token]] = {}
        self._running: set[Key] = set()
        self._asking: set[Key] = set()
        self._entered: set[Key] = set()
        self._over: set[Key] = set()
        self._silent = set(net.steps)
        self._begun = False
        self._number = 0
        self._last: str | None = None
        self._found = Replayed()

    def feed(self, event: StoredEvent) -> None:
        """The next event."""
        if event.seq != self._number + 1:
            gap = event.seq - self._number - 1
            which = f"event {self._number + 1}" if gap == 1 else f"events {self._number + 1} to {event.seq - 1}"
            self._lack(event, f"{which} before it not there" if gap > 0 else "its number is not the next one", abs(gap))
        self._number = event.seq
        if event.step_id is None:
            if event.kind in _LAST.values():
                if self._last is not None:
                    self._lack(event, "the run was over before")
                self._last = event.kind
            if event.kind == EventType.SEGMENT_PAUSED:
                # What still ran lost its claim and begins again; who was asked goes on being asked.
                self._running &= self._asking
            return
        move = _MOVES.get(event.kind)
        if move is None:
            return
        step = self._net.steps.get(event.step_id)
        if step is None:
            self._lack(event, "the definition has no such step")
            return
        if event.key in self._over:
            self._lack(event, "it was over before")
        else:
            move(self, step, event)
        self._silent.discard(step.step_id)

    def finish(self, status: str) -> Replayed:
        """What came of it. Only a run that completed must have used up every token."""
        if status in _LAST and self._last != _LAST[status]:
            self._found.produced += 1
            self._left("", f"not finished: the run is {status}, and no event says so")
        if status == "completed":
            for key in sorted(key for key in self._running if not self._net.steps[key[0]].quiet):
                self._left(key[0], f"visit {key[1]} began and never ended")
            for number, waiting in self._tokens.items():
                edge = self._net.edges[number]
                if waiting and self._must_go_on(edge):
                    self._left(edge.target, f"'{edge.source}' is over, and it neither began nor was skipped")
            if not self._begun and not self._linked:
                self._found.produced += 1
                self._left(self._net.entry, "the step that runs first never began")
        return self._found

    # -- what happens to a step

    def _started(self, step: NetStep, event: StoredEvent) -> None:
        if event.key in self._running:
            self._lack(event, "it began while it was running")
        elif event.key not in self._entered:
            self._enter(step, event, skipped=False)
        self._entered.add(event.key)
        self._running.add(event.key)
        self._found.produced += 1

    def _asked(self, step: NetStep, event: StoredEvent) -> None:
        self._asking.add(event.key)

    def _stopped(self, step: NetStep, event: StoredEvent) -> None:
        """The attempt is over, the step is not: it begins again."""
        self._end_running(event)

    def _completed(self, step: NetStep, event: StoredEvent) -> None:
        self._end_running(event)
        self._found.path.append(step.step_id)
        self._end(step, event.key, self._decided(step, event, Token.ANY))

    def _failed(self, step: NetStep, event: StoredEvent) -> None:
        if event.key in self._entered:
            # Lost once too often, it failed without running.
            self._found.consumed += 1
            self._running.discard(event.key)
        elif step.early:
            self._enter(step, event, skipped=True)
        else:
            self._end_running(event)
        self._end(step, event.key, self._decided(step, event, Token.ANY))

    def _skipped(self, step: NetStep, event: StoredEvent) -> None:
        if event.key in self._entered:
            self._lack(event, "it was skipped, and had begun")
        taken = self._enter(step, event, skipped=True)
        dies = next((token for token in (Token.FAILED, Token.ANY) if token in taken), Token.DEAD)
        self._end(step, event.key, self._decided(step, event, dies))

    # -- tokens

    def _end_running(self, event: StoredEvent) -> None:
        if event.key in self._running:
            self._found.consumed += 1
            self._running.discard(event.key)
        else:
            self._lack(event, "it ended without having begun")

    def _decided(self, step: NetStep, event: StoredEvent, unknown: Token) -> list[Token]:
        """What the step's row says of its edges, ``unknown`` for each where it does not."""
        said = event.decisions or ()
        if len(said) == len(step.outs):
            return [Token(one) for one in said]
        return [Token(said[0]) if len(said) == 1 else unknown] * len(step.outs)

    def _end(self, step: NetStep, key: Key, tokens: Iterable[Token]) -> None:
        self._entered.add(key)
        self._over.add(key)
        for number, token in zip(step.outs, tokens, strict=True):
            self._tokens.setdefault(number, deque()).append(token)
            self._found.produced += 1

    def _enter(self, step: NetStep, event: StoredEvent, *, skipped: bool) -> set[Token]:
        """Take a token from each edge into the step; which kinds there were."""
        ins = [number for number in step.ins if not self._net.edges[number].back]
        is_first = step.step_id == self._net.entry and not self._begun
        goes_round = bool(step.body) and not is_first and not any(self._tokens.get(number) for number in ins)
        if goes_round:
            ins = [number for number in step.ins if self._net.edges[number].back]
        taken = [] if is_first or not step.reachable else list(self._take(step, ins, event))
        if is_first:
            self._begun = True
            self._found.produced += 1
            self._found.consumed += 1
        if step.body:
            self._clear(step.body)
        self._check(step, event, [token for _, token in taken], skipped=skipped, first=is_first or not ins)
        if not skipped:
            for number, token in taken:
                if token in (Token.LIVE, Token.ANY):
                    edge = self._net.edges[number]
                    self._found.followed[edge.source, edge.target] += 1
        return {token for _, token in taken}

    def _take(self, step: NetStep, ins: Iterable[int], event: StoredEvent) -> Iterator[tuple[int, Token]]:
        for number in ins:
            waiting = self._tokens.get(number)
            if waiting:
                self._found.consumed += 1
                yield number, waiting.popleft()
            elif not self._may_lack(step, self._net.edges[number]):
                self._lack(event, f"'{self._net.edges[number].source}' before it was not over")

    def _may_lack(self, step: NetStep, edge: NetEdge) -> bool:
        source = self._net.steps[edge.source]
        return step.early or source.quiet or (self._linked and source.step_id in self._silent)

    def _check(self, step: NetStep, event: StoredEvent, taken: list[Token], *, skipped: bool, first: bool) -> None:
        """Whether what became of the edges lets the step begin, or be skipped."""
        if first or not taken or not step.reachable:
            return
        failed = Token.FAILED in taken and not step.early
        if skipped and Token.LIVE in taken and not failed and not step.early:
            self._lack(event, "it was skipped, and an edge into it was followed")
        elif not skipped and (failed or not {Token.LIVE, Token.ANY} & set(taken)):
            self._lack(event, "it began, and no edge into it was followed")

    def _clear(self, body: frozenset[str]) -> None:
        """A loop begins anew: what its last iteration left on its edges is settled."""
        for number, edge in enumerate(self._net.edges):
            if edge.source in body and self._tokens.get(number):
                self._found.consumed += len(self._tokens.pop(number))

    def _must_go_on(self, edge: NetEdge) -> bool:
        target = self._net.steps[edge.target]
        return not (edge.back or target.early or target.quiet)

    def _lack(self, event: StoredEvent, what: str, many: int = 1) -> None:
        self._found.missing += many
        self._found.consumed += many
        self._found.deviations.append(Deviation(event.seq, event.step_id or "", what))

    def _left(self, step_id: str, what: str) -> None:
        self._found.remaining += 1
        self._found.deviations.append(Deviation(None, step_id, what))


_MOVES: dict[str, Callable[[Player, NetStep, StoredEvent], None]] = {
    EventType.STEP_STARTED: Player._started,
    EventType.HUMAN_TASK_CREATED: Player._asked,
    EventType.STEP_COMPLETED: Player._completed,
    EventType.STEP_FAILED: Player._failed,
    EventType.STEP_SKIPPED: Player._skipped,
    EventType.STEP_RETRYING: Player._stopped,
    EventType.STEP_LOST: Player._stopped,
    EventType.STEP_RELEASED: Player._stopped,
}
