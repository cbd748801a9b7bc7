"""Requests in memory, for use inside one process and for tests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from llmteam.dispatch import Hint
from llmteam.events.models import EventDraft
from llmteam.human.deadlines import next_wake
from llmteam.human.exceptions import AnswerLinkError, InteractionNotFoundError
from llmteam.human.interactions import LISTED, DueRequest, request_channel
from llmteam.human.models import InteractionMessage, InteractionRequest, InteractionResponse, InteractionStatus
from llmteam.human.rulings import Case, Rule, Ruling, is_asked, withdrawal
from llmteam.ids import Clock, utc_now
from llmteam.wakeup import MemoryWakeup

#: Changes that are kept for a manager to tell and record; without one the oldest are forgotten.
MADE_KEPT = 10_000

#: Told (tenant, run, events, now) of what happened to a request of a run.
Tell = Callable[[str, str, Sequence[EventDraft], datetime], object]


class MemoryInteractions:
    """The :class:`~llmteam.human.interactions.Interactions` of one process. Copies go in, and copies come out."""

    keeps_notifications = False
    keeps_audit = False

    def __init__(self, clock: Clock = utc_now) -> None:
        self.wakeup = MemoryWakeup()
        #: Set by the store of the runs that ask.
        self.tell: Tell = lambda tenant_id, run_id, events, now: None
        #: Whether a run is there and not over; set likewise.
        self.goes_on: Callable[[str, str], bool] = lambda tenant_id, run_id: False
        #: Sets when a waiting step is looked at: given a moment, or now. Answers the queue of its hint. Set likewise.
        self.wake: Callable[[InteractionRequest, datetime | None], str | None] = lambda request, moment: None
        #: Sends the hint of a step that goes on.
        self.send: Callable[[Hint], object] = lambda hint: None
        self._clock = clock
        self._cases: dict[tuple[str, str], Case] = {}
        self._messages: dict[tuple[str, str], list[InteractionMessage]] = {}
        self._steps: dict[tuple[str, str, str, int], str] = {}
        self._looked: dict[tuple[str, str], datetime] = {}
        self._links: set[tuple[str, str]] = set()
        self._made: deque[Ruling] = deque(maxlen=MADE_KEPT)
        self._lock = threading.RLock()

    def create(self, ruling: Ruling) -> InteractionRequest:
        """As :meth:`Interactions.create`."""
        request = ruling.request
        with self._lock:
            if request.parked:
                known = self._steps.setdefault(_step_of(request), request.request_id)
                if known != request.request_id:
                    return _copy(self._cases[request.tenant_id, known]).request
            self._cases[request.tenant_id, request.request_id] = Case(request.model_copy(deep=True))
        self._told(ruling)
        return request

    def apply(self, tenant_id: str, request_id: str, rule: Rule) -> Ruling | None:
        """As :meth:`Interactions.apply`."""
        with self._lock:
            case = self._cases.get((tenant_id, request_id))
            if case is None:
                raise InteractionNotFoundError(request_id)
            ruling = rule(_copy(case))
            if ruling is None:
                return None
            if ruling.link is not None:
                if (tenant_id, ruling.link[0]) in self._links:
                    raise AnswerLinkError("used")
                self._links.add((tenant_id, ruling.link[0]))
            self._write(case, ruling)
        moved = ruling.closes or ruling.request.deadline != case.request.deadline
        if case.request.parked and case.request.status.is_open and moved:
            self._wake(ruling)
        self._told(ruling)
        return ruling

    def _wake(self, ruling: Ruling) -> None:
        request = ruling.request
        queue = self.wake(request, None if ruling.closes else request.deadline)
        if ruling.closes and queue is not None:
            self.send(Hint(request.tenant_id, request.run_id, request.step_name, request.visit, queue))

    def _write(self, case: Case, ruling: Ruling) -> None:
        ident = (ruling.request.tenant_id, ruling.request.request_id)
        kept = Case(ruling.request.model_copy(deep=True), case.votes, case.response, case.messages)
        if ruling.vote is not None:
            kept = _voted(kept, ruling.vote.model_copy(deep=True), final=ruling.final)
        if ruling.message is not None:
            self._messages.setdefault(ident, []).append(ruling.message)
            kept = replace(kept, messages=len(self._messages[ident]))
        self._cases[ident] = kept
        self._looked.pop(ident, None)

    def _told(self, ruling: Ruling) -> None:
        request = ruling.request
        if ruling.notices or ruling.audit:
            self._made.append(ruling)
        if request.run_id and ruling.events:
            self.tell(request.tenant_id, request.run_id, ruling.events, self._clock())
        self.wakeup.notify(request_channel(request.tenant_id, request.request_id))

    def drain(self) -> list[Ruling]:
        """As :meth:`Interactions.drain`."""
        made: list[Ruling] = []
        with suppress(IndexError):
            while True:
                made.append(self._made.popleft())
        return made

    def case(self, tenant_id: str, request_id: str) -> Case | None:
        """As :meth:`Interactions.case`."""
        case = self._cases.get((tenant_id, request_id))
        return None if case is None else _copy(case)

    def case_of_step(self, tenant_id: str, run_id: str, step_id: str, visit: int) -> Case | None:
        """As :meth:`Interactions.case_of_step`."""
        request_id = self._steps.get((tenant_id, run_id, step_id, visit))
        return None if request_id is None else self.case(tenant_id, request_id)

    def open_requests(
        self, tenant_id: str, *, person: str | None = None, groups: Collection[str] = (), limit: int = LISTED
    ) -> list[InteractionRequest]:
        """As :meth:`Interactions.open_requests`."""
        found = [
            case.request
            for (tenant, _), case in list(self._cases.items())
            if tenant == tenant_id
            and case.request.status.is_open
            and (person is None or is_asked(case.request, person, groups))
        ]
        return [request.model_copy(deep=True) for request in sorted(found, key=_by_deadline)[:limit]]

    def of_run(self, tenant_id: str, run_id: str) -> list[InteractionRequest]:
        """As :meth:`Interactions.of_run`."""
        found = [
            case.request
            for (tenant, _), case in list(self._cases.items())
            if run_id and (tenant, case.request.run_id) == (tenant_id, run_id)
        ]
        found.sort(key=lambda request: (request.created_at, request.request_id))
        return [request.model_copy(deep=True) for request in found]

    def messages(self, tenant_id: str, request_id: str, after: int = 0) -> list[InteractionMessage]:
        """As :meth:`Interactions.messages`."""
        return self._messages.get((tenant_id, request_id), [])[after:]

    def replace(self, request: InteractionRequest) -> None:
        """As :meth:`Interactions.replace`."""
        ident = (request.tenant_id, request.request_id)
        with self._lock:
            if ident not in self._cases:
                raise InteractionNotFoundError(request.request_id)
            self._cases[ident] = replace(self._cases[ident], request=request.model_copy(deep=True))
        self.wakeup.notify(request_channel(*ident))

    def put_response(self, tenant_id: str, response: InteractionResponse) -> None:
        """As :meth:`Interactions.put_response`."""
        ident = (tenant_id, response.request_id)
        with self._lock:
            case = self._cases.get(ident)
            if case is None:
                raise InteractionNotFoundError(response.request_id)
            if case.response is None:
                self._cases[ident] = _voted(case, response.model_copy(deep=True), final=True)
        self.wakeup.notify(request_channel(*ident))

    def take_due(self, limit: int) -> Sequence[DueRequest]:
        """As :meth:`Interactions.take_due`."""
        now = self._clock()
        due: list[tuple[datetime, DueRequest]] = []
        with self._lock:
            for ident, case in self._cases.items():
                moment = next_wake(case.request)
                if moment is not None and self._looked.get(ident, moment) <= now:
                    due.append((moment, DueRequest(*ident)))
            due = sorted(due, key=lambda found: found[0])[:limit]
            for _, found in due:
                self._looked[found.tenant_id, found.request_id] = now + timedelta(seconds=10)
        return [found for _, found in due]

    def purge(self, older_than: timedelta, limit: int) -> int:
        """As :meth:`Interactions.purge`."""
        before = self._clock() - older_than
        with self._lock:
            old = [
                ident
                for ident, case in self._cases.items()
                if not case.request.status.is_open
                and (case.request.updated_at or case.request.created_at) < before
                and not self.goes_on(ident[0], case.request.run_id)
            ][:limit]
            for ident in old:
                request = self._cases.pop(ident).request
                self._messages.pop(ident, None)
                self._steps.pop((request.tenant_id, request.run_id, request.step_name, request.visit), None)
        return len(old)

    # -- what happens to the run that asks

    def withdraw(self, tenant_id: str, run_id: str, keys: Collection[tuple[str, int]] | None, now: datetime) -> None:
        """Cancel what steps of a run (all of them for None) asked and nobody has answered."""

        def withdrawn(request: InteractionRequest) -> InteractionRequest:
            if keys is not None and not (request.parked and (request.step_name, request.visit) in keys):
                return request
            changed = request.changed(status=InteractionStatus.CANCELLED, updated_at=now)
            record = withdrawal(request.pipeline_id, run_id, request.step_name, request.request_id)
            self._made.append(Ruling(changed, audit=[record]))
            return changed

        self._each_of_run(tenant_id, run_id, withdrawn)

    def freeze(self, tenant_id: str, run_id: str, now: datetime) -> None:
        """Stop the clocks of a run's requests."""
        self._each_of_run(tenant_id, run_id, lambda r: r.changed(frozen_at=now))

    def thaw(self, tenant_id: str, run_id: str, stood: timedelta) -> None:
        """Let the clocks of a run's requests go on, as if it had not stood still."""
        self._each_of_run(
            tenant_id,
            run_id,
            lambda r: (
                r
                if r.frozen_at is None
                else r.changed(
                    frozen_at=None,
                    stood=r.stood + stood,
                    deadline=None if r.deadline is None else r.deadline + stood,
                )
            ),
        )

    def _each_of_run(
        self, tenant_id: str, run_id: str, change: Callable[[InteractionRequest], InteractionRequest]
    ) -> None:
        with self._lock:
            for ident, case in list(self._cases.items()):
                request = case.request
                if (ident[0], request.run_id) == (tenant_id, run_id) and request.status.is_open:
                    changed = change(request)
                    if changed is not request:
                        self._cases[ident] = replace(case, request=changed)
                        self.wakeup.notify(request_channel(*ident))


def _step_of(request: InteractionRequest) -> tuple[str, str, str, int]:
    return (request.tenant_id, request.run_id, request.step_name, request.visit)


def _copy(case: Case) -> Case:
    return Case(
        case.request.model_copy(deep=True),
        tuple(vote.model_copy(deep=True) for vote in case.votes),
        None if case.response is None else case.response.model_copy(deep=True),
        case.messages,
    )


def _voted(case: Case, vote: InteractionResponse, *, final: bool) -> Case:
    votes = (*(other for other in case.votes if other.responder_id != vote.responder_id), vote)
    return replace(case, votes=votes, response=vote if final else case.response)


def _by_deadline(request: InteractionRequest) -> tuple[bool, float, str]:
    moment = request.deadline
    return (moment is None, 0.0 if moment is None else moment.timestamp(), request.request_id)
