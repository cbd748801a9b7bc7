"""Requests to people in one store, and time that passes when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from llmteam.db import Database
from llmteam.human import HumanInteractionManager, InteractionStore, MemoryInteractionStore, rules
from llmteam.human.interactions import Interactions
from llmteam.human.models import InteractionRequest, InteractionType
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.human.rulings import Case, Rule, Ruling
from llmteam.ids import Clock, new_id, utc_now
from tests.conformance.desk import TENANT
from tests.conformance.ward import TENANTS
from tests.unit.human.samples import answer, request

_MOMENTS = ("deadline", "wake_at", "created_at", "updated_at", "frozen_at")


@dataclass
class MovingClock:
    """The real time, and what a test adds to it."""

    ahead: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@dataclass
class Counter:
    """A store of requests with what a test does at it. ``pass_time`` takes seconds."""

    store: InteractionStore
    clock: Clock
    pass_time: Callable[[float], None]

    @property
    def core(self) -> Interactions:
        return self.store.core

    def manager(self, **how: Any) -> HumanInteractionManager:
        return HumanInteractionManager(self.store, clock=self.clock, **how)

    def ask(self, kind: InteractionType = InteractionType.APPROVAL, **fields: Any) -> InteractionRequest:
        """A new open request; of no run unless one is named."""
        asked = request(kind, **{"request_id": new_id(), "run_id": "", **fields})
        return self.core.create(rules.open_request(asked, self.clock()))

    def apply(self, asked: InteractionRequest, rule: Rule) -> Ruling:
        ruling = self.core.apply(asked.tenant_id, asked.request_id, rule)
        assert ruling is not None
        return ruling

    def answer(self, asked: InteractionRequest, person: str = "ann", **fields: Any) -> Ruling:
        link = fields.pop("link", None)
        given = answer(person, **fields)
        vote = given.response.model_copy(update={"request_id": asked.request_id})
        given = rules.Answer(vote, given.groups, link)
        return self.apply(asked, lambda case: rules.respond(case, given, self.clock()))

    def case(self, asked: InteractionRequest) -> Case:
        case = self.core.case(asked.tenant_id, asked.request_id)
        assert case is not None
        return case

    def now(self, asked: InteractionRequest) -> InteractionRequest:
        """The request as it stands."""
        return self.case(asked).request

    def due(self, limit: int = 100) -> list[tuple[str, str]]:
        return [(found.tenant_id, found.request_id) for found in self.core.take_due(limit)]


def ident(asked: InteractionRequest) -> tuple[str, str]:
    return asked.tenant_id, asked.request_id


def ids(asked: list[InteractionRequest]) -> list[str]:
    return [one.request_id for one in asked]


def in_memory_counter() -> Counter:
    clock = MovingClock()

    def pass_time(seconds: float) -> None:
        clock.ahead += timedelta(seconds=seconds)

    return Counter(MemoryInteractionStore(clock), clock, pass_time)


def in_postgres_counter(database: Database) -> Counter:
    """Here what was written moves back instead, since the server has a clock of its own."""
    script = f"UPDATE llmteam.interactions SET {', '.join(f'{one} = {one} - %(by)s' for one in _MOMENTS)};"

    def pass_time(seconds: float) -> None:
        for tenant in TENANTS:
            with database.hot(tenant) as connection:
                connection.script(script, {"by": timedelta(seconds=seconds)})

    return Counter(PostgresInteractionStore(database), utc_now, pass_time)


__all__ = ["TENANT", "Counter", "ident", "ids", "in_memory_counter", "in_postgres_counter"]
