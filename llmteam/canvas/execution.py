"""A claimed step on its way through a handler, and what one process keeps for running steps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from llmteam import codec
from llmteam.canvas.graph import Graph, Node, compile_graph
from llmteam.canvas.ports import StepHandler
from llmteam.canvas.records import PinnedDefinition, RunHeader, RunStore, Seen, StoredOutput, Work
from llmteam.canvas.routing import Source
from llmteam.canvas.state import Change, Failed, Key
from llmteam.dispatch import Hint
from llmteam.events.models import ErrorInfo
from llmteam.events.payloads import omission, prepare
from llmteam.ratelimit.gate import Pass
from llmteam.runtime.context import StepContext

#: Compiled graphs that one process keeps.
GRAPHS_KEPT = 256
#: The longest duration that counts; what is meant as "never" may be longer than there are dates.
LONGEST = timedelta(days=3650)
#: What an error may ask for at most before the next attempt.
MAX_RETRY_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes of JSON, and durations, that a process applies to the steps it runs."""

    max_output_bytes: int = 1024 * 1024
    inline_bytes: int = 8192
    lease: timedelta = timedelta(seconds=30)
    step_timeout: timedelta | None = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Execution:
    """A claimed step with all that its handler gets.

    ``timeout`` is in seconds. ``delivered_chord`` is the chord whose header the delivery was that made the claim.
    ``refusal`` is why the handler cannot be called at all. ``seen`` is what the claim saw of the run. ``revoked`` is
    set once the claim is known to be gone. ``passed`` is the room that it takes under limits.
    """

    header: RunHeader
    node: Node
    graph: Graph
    key: Key
    fence: int
    ctx: StepContext
    handler: StepHandler | None
    config: dict[str, Any]
    input: Any
    timeout: float | None
    delivered_chord: str | None = None
    refusal: Exception | None = None
    seen: Seen | None = None
    passed: Pass | None = None
    revoked: threading.Event = field(default_factory=threading.Event)


class GraphCache:
    """Compiled graphs by definition hash, least recently used out first. Safe for threads."""

    def __init__(self, store: RunStore, kept: int = GRAPHS_KEPT) -> None:
        self._store = store
        self._kept = kept
        self._graphs: OrderedDict[str, Graph] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, tenant_id: str, definition_hash: str) -> Graph:
        with self._lock:
            graph = self._graphs.get(definition_hash)
            if graph is not None:
                self._graphs.move_to_end(definition_hash)
                return graph
        return self.put(self._store.definition(tenant_id, definition_hash))

    def put(self, pinned: PinnedDefinition) -> Graph:
        with self._lock:
            graph = self._graphs.get(pinned.hash)
        if graph is None:
            graph = compile_graph(pinned.definition, pinned.facts.get)
        with self._lock:
            self._graphs[pinned.hash] = graph
            while len(self._graphs) > self._kept:
                self._graphs.popitem(last=False)
        return graph


#: Inputs that one process keeps for steps it may be asked to run next.
HANDED_ON_KEPT = 1024


class HandedOn:
    """Work that this process made ready and is likely to be asked for next; it spares a look at the store.

    Whether the step is still due, the claim decides by compare-and-set. Oldest out first. Safe for threads.
    """

    def __init__(self, kept: int = HANDED_ON_KEPT) -> None:
        self._kept = kept
        self._works: OrderedDict[tuple[str, str, str, int], Work] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, work: Work, key: Key) -> None:
        """Keep ``work`` for the step ``key`` of its run."""
        with self._lock:
            self._works[work.header.tenant_id, work.header.run_id, *key] = work
            if len(self._works) > self._kept:
                self._works.popitem(last=False)

    def follow(self, execution: Execution, change: Change, output: StoredOutput) -> None:
        """Keep what the steps take as input that are ready because ``execution`` gave ``output``."""
        header, graph, (step_id, _) = execution.header, execution.graph, execution.key
        if header.link in ("fork", "retry"):
            return  # a step of a fork, or of its retry, may be given other input than what it would gather
        finished = change.steps.get(execution.key)
        for key in change.ready:
            row = change.steps.get(key)
            if row is None or finished is None or graph.nodes[key[0]].sources != (step_id,):
                continue
            source = Source(step_id, finished.decisions or (), output.parsed())
            self.put(Work(header, change.run, row, (source,)), key)

    def take(self, hint: Hint) -> Work | None:
        """What was kept for the step of ``hint``, once."""
        with self._lock:
            return self._works.pop(hint.args, None)


def idempotency_key(header: RunHeader, key: Key) -> str:
    """The same for every attempt at a step, and for the step in retries of its run; never shared between tenants."""
    return codec.digest(codec.canonical([header.tenant_id, header.root_run_id, *key]))


def bounded(seconds: float) -> timedelta:
    """A duration after which there is still a date."""
    return min(timedelta(seconds=min(seconds, 1e9)), LONGEST)


def retry_after_of(exc: BaseException) -> timedelta:
    """The least delay before the next attempt, as the error asks for it."""
    asked = getattr(exc, "retry_after", None)
    if not isinstance(asked, int | float) or not asked > 0:
        return timedelta()
    return min(bounded(asked), MAX_RETRY_AFTER)


def inline(payload: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """``payload`` as an event may carry it: redacted, and what is too large left out with its size."""
    return prepare(payload, limit=limits.inline_bytes, replace=omission)[0] if payload else {}


def failure_of(execution: Execution, exc: BaseException, limits: Limits) -> Failed:
    """A handler's error as the outcome of its step: redacted, with its own opinion on trying again."""
    retryable = getattr(exc, "retryable", None)
    return Failed(
        ErrorInfo.from_exception(exc, recoverable=retryable is True, redact=execution.ctx.redact),
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after=retry_after_of(exc),
        payload=inline(execution.ctx.annotations, limits),
    )
