"""Starting runs and asking after them: the part that the async runner, the blocking client and the tasks share.

Everything here blocks as long as its stores do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from llmteam import codec
from llmteam.canvas.auditing import start_refusal
from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.engine import Engine
from llmteam.canvas.exceptions import (
    AlreadyRunningError,
    RunNotFoundError,
    SegmentValidationError,
    UnknownSegmentError,
)
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.records import Link, NewRun, PinnedDefinition, RunRecord, Taken
from llmteam.canvas.registry import SegmentRegistry, parse_reference
from llmteam.canvas.results import RunConfig, SegmentResult, run_options
from llmteam.canvas.state import SegmentStatus, StepState
from llmteam.canvas.surgery import Surgery
from llmteam.canvas.teams import step_types_of
from llmteam.canvas.validation import SegmentValidator
from llmteam.events.models import EventQuery
from llmteam.events.stores import EventStoreFace
from llmteam.ids import InvalidIdentifierError, check_identifier, new_id
from llmteam.runtime.manager import default_manager
from llmteam.tenancy.exceptions import TenantError
from llmteam.wakeup import Wakeup, end_channel

logger = logging.getLogger(__name__)

#: Seconds without progress after which a waiter asks whether anybody works on the run.
PATIENCE_SECONDS = 5.0
#: Definitions that were found sound and are remembered.
PINNED_KEPT = 256
#: Seconds after which a waiter looks although nothing woke it: what a lost wake-up costs at most.
POLL_SECONDS = 1.0

#: How often a start that others race with is tried.
_START_ATTEMPTS = 4
#: Characters of an idempotency key.
MAX_KEY_LENGTH = 255

Segment = SegmentDefinition | str


IfOpen = Literal["return", "fail", "restart"]
IfClosed = Literal["return", "fail", "restart", "restart_failed"]


@dataclass(frozen=True, slots=True)
class StartRules:
    """What a start does when there is a run of its id or idempotency key already.

    ``return`` gives that run, if it was started with the same segment and input; ``fail`` refuses; ``restart`` cancels
    it if it is open, and starts anew; ``restart_failed`` does so unless it completed, and then gives it. A run id names
    one run for ever, so that the last two need an idempotency key. Another word is a ``ValueError``.
    """

    if_open: IfOpen = "return"
    if_closed: IfClosed = "return"

    def __post_init__(self) -> None:
        for name, value, known in (("if_open", self.if_open, IfOpen), ("if_closed", self.if_closed, IfClosed)):
            if value not in get_args(known):
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(get_args(known))}")

    def rule_for(self, status: SegmentStatus) -> str:
        """The rule for a run of this status, one of ``return``, ``fail``, ``restart``."""
        if not status.is_terminal:
            return self.if_open
        if self.if_closed == "restart_failed":
            return "return" if status is SegmentStatus.COMPLETED else "restart"
        return self.if_closed


@dataclass(frozen=True, slots=True)
class Start:
    """What a start was asked for. ``segment`` is a definition or ``id[@version]`` of a published one.

    ``run_id`` and ``idempotency_key`` each make it a start that happens once, however often it is asked for.
    """

    tenant_id: str
    segment: Segment
    input: Any
    config: RunConfig | None = None
    run_id: str | None = None
    instance_id: str = ""
    context: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    rules: StartRules = StartRules()


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a start: the run, and whether it is a new one or was there already."""

    run_id: str
    is_new: bool


def runtime_ref(
    tenant_id: str, run_id: str, instance_id: str = "", data: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What workers rebuild a run's runtime context from, for callers that have none."""
    return default_manager().create_runtime(tenant_id, instance_id, run_id=run_id, data=dict(data or {})).to_ref()


def _checked_key(key: str | None) -> str | None:
    """Raises :class:`InvalidIdentifierError` for a key that cannot be kept."""
    if key is not None and (not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable()):
        raise InvalidIdentifierError("idempotency_key", key, f"1 to {MAX_KEY_LENGTH} printable characters")
    return key


class Patience:
    """Asks, once, whether anybody works on a run that does not move for a while."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._ask_at: float | None = time.monotonic() + PATIENCE_SECONDS

    def look(self, record: RunRecord) -> None:
        """Look at a run that somebody waits for."""
        if self._ask_at is None or record.status is not SegmentStatus.RUNNING or record.steps_completed:
            return
        if time.monotonic() >= self._ask_at:
            self._ask_at = None
            self._runs.warn_if_unattended(record)


class Runs:
    """The runs of one installation, seen from a process that starts them or asks after them.

    ``known_types`` names step types that have a handler although the catalog does not know them; ``unattended`` finds
    the queues of a definition that no worker consumes.
    """

    def __init__(
        self,
        engine: Engine,
        events: EventStoreFace,
        wakeup: Wakeup,
        catalog: StepCatalog | None = None,
        registry: SegmentRegistry | None = None,
        *,
        known_types: Callable[[], Iterable[str]] = tuple,
        close: Callable[[], None] = lambda: None,
        unattended: Callable[[PinnedDefinition, str], list[str]] | None = None,
    ) -> None:
        self.engine = engine
        self.events = events
        self.wakeup = wakeup
        self.catalog = catalog or StepCatalog.get_instance()
        self.registry = registry
        self.surgery = Surgery(engine, wakeup)
        self.known_types = known_types
        self.close = close
        self._unattended = unattended
        self._pinned: OrderedDict[str, PinnedDefinition] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def blocks(self) -> bool:
        """Whether calls wait for a server."""
        return self.events.blocks

    def pin(self, segment: SegmentDefinition) -> PinnedDefinition:
        """The definition with the facts of its step types, checked.

        Raises :class:`SegmentValidationError` with every problem of an unsound one.
        """
        found = {type_id: self.catalog.facts(type_id) for type_id in sorted(step_types_of(segment))}
        facts = {type_id: fact for type_id, fact in found.items() if fact is not None}
        known = {type_id: fact.model_dump(mode="json") for type_id, fact in facts.items()}
        key = codec.digest(codec.canonical([segment.to_dict(), known]))
        with self._lock:
            pinned = self._pinned.get(key)
        if pinned is None:
            SegmentValidator(self.catalog, known=tuple(self.known_types())).validate(segment).raise_if_invalid()
            pinned = PinnedDefinition(key, segment.model_copy(deep=True), facts)
            with self._lock:
                self._pinned[key] = pinned
                while len(self._pinned) > PINNED_KEPT:
                    self._pinned.popitem(last=False)
        return pinned

    def resolve(self, tenant_id: str, segment: Segment) -> SegmentDefinition:
        """The definition itself, or the published one of ``id[@version]``.

        Raises :class:`UnknownSegmentError`, and :class:`SegmentValidationError` for what is neither.
        """
        if isinstance(segment, SegmentDefinition):
            return segment
        if not isinstance(segment, str):
            kind = type(segment).__name__
            raise SegmentValidationError(
                f"the segment is a {kind}: make it with SegmentDefinition.from_dict(), or name a published one"
            )
        if self.registry is None:
            raise UnknownSegmentError(segment)
        segment_id, version = parse_reference(segment)
        return self.registry.fetch(tenant_id, segment_id, version).definition

    def start(self, start: Start) -> str:
        """As :meth:`begin`; the run's id."""
        return self.begin(start).run_id

    def begin(self, start: Start) -> Started:
        """Write the run and hint at its first step; nothing is half-started.

        With a ``run_id`` or an idempotency key of a run that is there already, that run, or whatever the rules of the
        start say.

        Raises:
            SegmentValidationError: the definition is unsound.
            AlreadyRunningError: the run that is there was started otherwise, or the rules refuse to share it.
            NotJSONError, PayloadTooLargeError: the input cannot be stored.
            TenantError: its kinds say why the tenant may not start it.
            InfrastructureError: the run could not be written.
        """
        pinned = self.pin(self.resolve(start.tenant_id, start.segment))
        text = codec.dumps(start.input, path="$")
        codec.check_size("the run's input", text, self.engine.limits.max_output_bytes)
        run = NewRun(
            tenant_id=check_identifier("tenant_id", start.tenant_id),
            run_id=new_id() if start.run_id is None else check_identifier("run_id", start.run_id),
            pinned=pinned,
            input=text,
            options=run_options(pinned.definition, start.config),
            instance_id=start.instance_id,
            context=start.context or {},
            idempotency_key=_checked_key(start.idempotency_key),
        )
        for left in reversed(range(_START_ATTEMPTS)):
            is_new, taken = self._submit(run)
            if is_new:
                return Started(run.run_id, is_new=True)
            if taken is None:
                continue  # purged in between
            if self._shares(taken, run, start.rules):
                return Started(taken.run_id, is_new=False)
            if not left:
                break  # whose run it is would be cancelled for nothing
            self.engine.end(run.tenant_id, taken.run_id, SegmentStatus.CANCELLED, by=run.options.started_by)
            link = Link("restart", taken.run_id, run.run_id)
            run = replace(run, replaces=taken.run_id, link=link)
        raise AlreadyRunningError(run.run_id, "and others start it at the same time")

    def _submit(self, run: NewRun) -> tuple[bool, Taken | None]:
        """Whether the run was written, else the one that was there before: it is given also where there is no room."""
        refused: TenantError | None = None
        try:
            if self.engine.submit(run):
                return True, None
        except TenantError as exc:
            refused = exc
        taken = self.engine.store.taken(run.tenant_id, run.run_id, run.idempotency_key)
        if taken is None and refused is not None:
            self.engine.denials.note(run.tenant_id, start_refusal(run, refused))
            raise refused
        return False, taken

    def _shares(self, taken: Taken, run: NewRun, rules: StartRules) -> bool:
        """Whether the start is answered by the run that is there; False when that one makes way.

        Raises :class:`AlreadyRunningError`.
        """
        rule = rules.rule_for(taken.status)
        if rule == "fail":
            raise AlreadyRunningError(taken.run_id, f"and is {taken.status.value}")
        if rule == "restart":
            if taken.run_id == run.run_id:
                raise AlreadyRunningError(taken.run_id, "and a run id names one run for ever")
            return False
        if taken.start_hash is not None and taken.start_hash != run.start_hash:
            raise AlreadyRunningError(taken.run_id, "and was started with another segment or other input")
        return True

    def record(self, tenant_id: str, run_id: str) -> RunRecord:
        """The run's row. Raises :class:`RunNotFoundError`."""
        record = self.engine.store.record(tenant_id, run_id)
        if record is None:
            raise RunNotFoundError(run_id)
        return record

    def result(self, tenant_id: str, run_id: str, *, events: bool = True) -> SegmentResult:
        """How the run ended, or how far it is. Raises :class:`RunNotFoundError`."""
        return self._result(self.record(tenant_id, run_id), events)

    def _result(self, record: RunRecord, events: bool) -> SegmentResult:
        tenant_id, run_id, store = record.tenant_id, record.run_id, self.engine.store
        outputs = store.outputs(tenant_id, run_id) if record.status is SegmentStatus.COMPLETED else {}
        current = None
        if not record.status.is_terminal:
            running = [s.row.step_id for s in store.steps(tenant_id, run_id) if s.row.state is StepState.RUNNING]
            current = running[0] if running else None
        found = self.events.select(EventQuery(tenant_id=tenant_id, run_id=run_id)) if events else []
        return SegmentResult.of(record, outputs, found, current)

    def wait(self, tenant_id: str, run_id: str, timeout: float | None = None, *, events: bool = False) -> SegmentResult:
        """Block until the run is over, at most ``timeout`` seconds, and return how it is then.

        Reading the run's ``events`` too costs more than everything else here. Raises :class:`RunNotFoundError`.
        """
        record = self.record(tenant_id, run_id)
        if not record.status.is_terminal:
            record = self._wait_for_end(tenant_id, run_id, timeout)
        return self._result(record, events)

    def _wait_for_end(self, tenant_id: str, run_id: str, timeout: float | None) -> RunRecord:
        patience = Patience(self)
        end = None if timeout is None else time.monotonic() + timeout
        with self.wakeup.subscribe(end_channel(tenant_id, run_id)) as watch:
            while not (record := self.record(tenant_id, run_id)).status.is_terminal:
                patience.look(record)
                left = POLL_SECONDS if end is None else min(POLL_SECONDS, end - time.monotonic())
                if left <= 0:
                    break
                watch.wait(left)
        return record

    def warn_if_unattended(self, record: RunRecord) -> None:
        """Log which of a run's queues no worker consumes. Never raises: asking is a courtesy."""
        if self._unattended is None:
            return
        try:
            pinned = self.engine.store.definition(record.tenant_id, record.definition_hash)
            queues = self._unattended(pinned, record.region)
        except Exception as exc:  # noqa: BLE001  # the broker may be away; the run is safe all the same
            logger.debug("run %s: could not ask who consumes its queues: %s", record.run_id, exc)
            return
        if queues:
            logger.warning(
                "run %s waits: no worker consumes %s; start one with `llmteam worker`", record.run_id, ", ".join(queues)
            )

    def cancel(self, tenant_id: str, run_id: str, *, by: str = "") -> bool:
        """Cancel a run; False when it is unknown or over. ``by`` is who wants that, for the audit trail."""
        return self.engine.end(tenant_id, run_id, SegmentStatus.CANCELLED, by=by)
