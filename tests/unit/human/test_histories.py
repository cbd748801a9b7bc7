"""Whatever people and time do to a request, in whatever order, what is promised about it holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmteam.human import rules
from llmteam.human.deadlines import next_wake, tick
from llmteam.human.exceptions import (
    InteractionChangedError,
    InteractionClosedError,
    InteractionError,
    InvalidRequestError,
    InvalidResponseError,
    ResponderNotAllowedError,
)
from llmteam.human.models import InteractionRequest, InteractionStatus, InteractionType
from llmteam.human.rulings import Case, Ruling
from tests.unit.human.samples import NOW, request, response, then

Status = InteractionStatus
PEOPLE = ["ann", "bob", "cat", "eve"]
GROUPS: dict[str, tuple[str, ...]] = {"ann": ("finance",), "bob": ("finance",), "cat": (), "eve": ("finance",)}
INSTANT = timedelta(microseconds=1)

people = st.sampled_from(PEOPLE)
minutes = st.integers(1, 60).map(lambda number: timedelta(minutes=number))
hours = st.integers(2, 9).map(lambda number: timedelta(hours=number))
seconds = st.integers(1, 5_000).map(lambda number: timedelta(seconds=number))


class History(RuleBasedStateMachine):
    """One request, and a clock that only the machine moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.finals = 0
        self.frozen_for = timedelta()
        self.case = Case(request())
        self.opened = False

    @initialize(
        kind=st.sampled_from([InteractionType.APPROVAL, InteractionType.CHAT]),
        quorum=st.integers(1, 3),
        approvers=st.sampled_from([[], ["ann", "bob", "cat"], ["ann", "ann", "bob"], ["bob", "eve", "cat"]]),
        assignee=st.none() | people,
        group=st.sampled_from([None, "finance"]),
        chain=st.lists(people, max_size=3),
        four_eyes=st.booleans(),
        timeout=hours,
        reminder=st.none() | minutes,
        warning=st.none() | minutes,
        breach=st.none() | minutes,
    )
    def ask(self, kind: InteractionType, quorum: int, four_eyes: bool, **fields: object) -> None:
        names = {"assignee": "assignee_id", "group": "assignee_group", "chain": "escalation_chain"}
        names |= {"warning": "sla_warning", "breach": "sla_breach"}
        given = {names.get(name, name): value for name, value in fields.items()}
        quorum = quorum if kind is InteractionType.APPROVAL else 1
        asked = request(kind, quorum=quorum, four_eyes=four_eyes, requester_id="eve", **given)
        try:
            self.case = Case(rules.open_request(asked, self.now).request)
        except InvalidRequestError:
            asked = request(
                kind, assignee_id="ann", timeout=given["timeout"], escalation_chain=given["escalation_chain"]
            )
            self.case = Case(rules.open_request(asked, self.now).request)
        self.opened = True

    @property
    def request(self) -> InteractionRequest:
        return self.case.request

    # -- what people do

    @rule(person=people, approved=st.booleans(), seen=st.sampled_from(["this", "before", "unknown"]))
    def respond(self, person: str, approved: bool, seen: str) -> None:
        shown = {"this": self.request.shown_hash, "before": "0" * 64, "unknown": None}[seen]
        given = rules.Answer(response(person, approved=approved, shown_hash=shown), GROUPS[person])

        refused = self.do(lambda: rules.respond(self.case, given, self.now), lambda: self.refusal(person, seen))

        if not refused:
            assert self.case.votes[-1].responder_id == person

    @precondition(lambda self: self.request.quorum > 1)
    @rule(person=people)
    def approve(self, person: str) -> None:
        self.respond(person, approved=True, seen="unknown")

    @rule(person=people)
    def claim(self, person: str) -> None:
        refused = self.do(
            lambda: rules.claim(self.case, person, self.now, GROUPS[person]), lambda: self.refusal(person, claims=True)
        )

        assert refused or (self.request.claimed_by, self.request.status) == (person, Status.IN_PROGRESS)

    @rule(person=people, to=people)
    def delegate(self, person: str, to: str) -> None:
        refused = self.do(
            lambda: rules.delegate(self.case, person, to, self.now, GROUPS[person]),
            lambda: self.refusal(person, claims=True) or self.barred(to),
        )

        assert refused or self.request.assignee_id == to

    @rule(to=people)
    def reassign(self, to: str) -> None:
        refused = self.do(lambda: rules.reassign(self.case, to, self.now), lambda: self.over() or self.barred(to))

        assert refused or self.request.assignee_id == to

    @rule(title=st.sampled_from(["Large invoice", "Larger invoice", "Largest invoice"]))
    def amend(self, title: str) -> None:
        self.do(lambda: rules.amend(self.case, self.now, title=title), self.over)

    @rule(person=st.sampled_from([*PEOPLE, "sorter"]))
    def say(self, person: str) -> None:
        said = self.case.messages
        groups = GROUPS.get(person, ())

        refused = self.do(
            lambda: rules.send_message(self.case, person, "hello", self.now, groups),
            lambda: (
                self.over()
                or (InvalidResponseError if self.request.interaction_type is not InteractionType.CHAT else None)
                or (None if person == "sorter" else self.refusal(person, claims=True))
            ),
        )

        assert self.case.messages == said + (not refused)

    @precondition(lambda self: self.case.votes or self.request.reminded)
    @rule()
    def cancel(self) -> None:
        closed = not self.request.status.is_open
        self.do(lambda: rules.cancel(self.case, self.now), lambda: InteractionClosedError if closed else None)

    @rule()
    def notified(self) -> None:
        self.case = then(self.case, rules.notified(self.case, self.now))

    # -- what time does

    @rule(by=minutes | seconds | hours)
    def time_passes(self, by: timedelta) -> None:
        self.now += by
        if self.request.frozen_at is not None:
            self.frozen_for += by

    @precondition(lambda self: next_wake(self.request) is not None)
    @rule(early=st.booleans())
    def time_passes_until_something_is_due(self, early: bool) -> None:
        moment = next_wake(self.request)
        assert moment is not None
        self.now = max(self.now, moment - INSTANT if early else moment)
        self.sweep()

    @rule()
    def sweep(self) -> None:
        for _ in range(20):
            before, ruling = self.request, tick(self.case, self.now)
            if ruling is None:
                break
            self.check_tick(before, ruling.request)
            self.case = then(self.case, ruling)
        else:
            raise AssertionError("there is always more to do")
        moment = next_wake(self.request)
        assert moment is None or moment > self.now

    @precondition(lambda self: self.request.status.is_open and self.request.frozen_at is None)
    @rule()
    def freeze(self) -> None:
        self.case = then(self.case, Ruling(self.request.changed(frozen_at=self.now)))
        self.frozen_for = timedelta()

    @precondition(lambda self: self.request.status.is_open and self.request.frozen_at is not None)
    @rule()
    def thaw(self) -> None:
        assert self.request.deadline is not None
        later = {"deadline": self.request.deadline + self.frozen_for, "stood": self.request.stood + self.frozen_for}
        self.case = then(self.case, Ruling(self.request.changed(frozen_at=None, **later)))

    # -- what is promised

    @invariant()
    def it_is_due_exactly_when_it_says_so(self) -> None:
        if not self.opened:
            return
        moment = next_wake(self.request)
        assert (tick(self.case, self.now) is not None) == (moment is not None and moment <= self.now)
        if moment is None:
            assert tick(self.case, self.now + timedelta(days=999)) is None
        else:
            assert tick(self.case, moment) is not None
            assert tick(self.case, moment - INSTANT) is None

    @invariant()
    def it_has_at_most_one_final_answer_and_only_when_it_is_answered(self) -> None:
        assert self.finals <= 1
        answered = self.request.status in (Status.COMPLETED, Status.REJECTED)
        assert (self.case.response is not None) == answered == (self.finals == 1)

    @invariant()
    def enough_different_people_approved_what_is_shown_now(self) -> None:
        given = {vote.responder_id for vote in self.case.votes if self.counts(vote.approved is True, vote.shown_hash)}
        if self.request.status is Status.COMPLETED:
            assert len(given) >= self.request.quorum
        elif self.request.status.is_open:
            assert len(given) < self.request.quorum

    @invariant()
    def whoever_started_the_run_decided_nothing_when_four_eyes_do(self) -> None:
        assert not self.request.four_eyes or "eve" not in {vote.responder_id for vote in self.case.votes}

    @invariant()
    def reminders_are_never_more_than_the_time_allows(self) -> None:
        if self.request.reminder is not None:
            passed = self.now - self.request.created_at - self.request.stood
            assert self.request.reminded <= passed / self.request.reminder

    @invariant()
    def it_comes_back_from_json_as_it_is(self) -> None:
        assert InteractionRequest.from_dict(self.request.to_dict()) == self.request

    # -- helpers

    def do(
        self, deed: Callable[[], Ruling], expected: Callable[[], type[InteractionError] | None]
    ) -> type[InteractionError] | None:
        """Do it, and compare what becomes of it with what must; the refusal, or None."""
        before, refusal = self.case, expected()
        try:
            ruling: Ruling | InteractionError = deed()
        except InteractionError as exc:
            ruling = exc
        if isinstance(ruling, InteractionError):
            assert refusal is not None, f"{ruling!r} for nothing"
            assert isinstance(ruling, refusal)
            return refusal
        assert refusal is None, f"{refusal} was due"
        assert before.request.status.is_open
        assert ruling.final == (ruling.request.status in (Status.COMPLETED, Status.REJECTED))
        self.finals += ruling.final
        self.case = then(before, ruling)
        assert self.request.current_escalation_level == before.request.current_escalation_level
        assert self.request.deadline == before.request.deadline
        return None

    def over(self) -> type[InteractionError] | None:
        asked = self.request
        assert asked.deadline is not None
        used_up = asked.current_escalation_level == len(asked.escalation_chain)
        late = asked.frozen_at is None and asked.deadline <= self.now and used_up
        return InteractionClosedError if late or not asked.status.is_open else None

    def barred(self, person: str) -> type[InteractionError] | None:
        return ResponderNotAllowedError if self.request.four_eyes and person == "eve" else None

    def refusal(self, person: str, seen: str = "this", *, claims: bool = False) -> type[InteractionError] | None:
        """Why ``person`` may not answer."""
        asked = self.request
        if self.over():
            return InteractionClosedError
        reached = asked.escalation_chain[: asked.current_escalation_level]
        named = [asked.assignee_id, *asked.approvers, *reached]
        by_group = asked.assignee_group == "finance" and "finance" in GROUPS[person]
        anybodys = asked.assignee_group is None and named == [None]
        if self.barred(person) or not (person in named or by_group or anybodys):
            return ResponderNotAllowedError
        if claims:
            return None
        if seen == "before":
            return InteractionChangedError
        if asked.interaction_type is InteractionType.APPROVAL and asked.quorum > 1:
            voted = {vote.responder_id for vote in self.case.votes if self.counts(True, vote.shown_hash)}
            return InvalidResponseError if person in voted else None
        return None

    def counts(self, wanted: bool, shown: str | None) -> bool:
        return wanted and shown == self.request.shown_hash

    def check_tick(self, before: InteractionRequest, after: InteractionRequest) -> None:
        """One thing that time did: an escalation, the end, a threshold or a reminder, and nothing else."""
        assert before.status.is_open
        assert before.frozen_at is None
        assert after.updated_at == self.now
        if after.current_escalation_level != before.current_escalation_level:
            level = before.current_escalation_level
            assert (after.current_escalation_level, after.status) == (level + 1, Status.ESCALATED)
            assert after.assignee_id == before.escalation_chain[level]
            assert after.deadline == self.now + before.timeout
            assert after.claimed_by is None
        elif after.status is not before.status:
            assert after.status is Status.TIMEOUT
            assert before.current_escalation_level == len(before.escalation_chain)
            assert before.deadline is not None
            assert before.deadline <= self.now
        else:
            told = [
                name for name in ("warned", "breached", "reminded") if getattr(after, name) != getattr(before, name)
            ]
            assert told in (["warned"], ["breached"], ["warned", "breached"], ["reminded"])
            assert after.deadline == before.deadline


History.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHistory = History.TestCase
