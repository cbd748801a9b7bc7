"""A ward in whose runs people are asked: steps park, people answer, time passes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from llmteam.canvas.execution import Execution
from llmteam.canvas.handlers.human_task import ask_person
from llmteam.canvas.state import Change
from llmteam.dispatch import Hint
from llmteam.human import HumanInteractionManager, InteractionRequest, InteractionResponse, InteractionStore
from llmteam.human.rulings import Case
from llmteam.tenancy import TenantContext
from tests.conformance.desk import TENANT
from tests.conformance.ward import Ward

T = TypeVar("T")


class Office:
    """``ward`` moves the runs, ``manager`` is what people answer with."""

    def __init__(self, ward: Ward, store: InteractionStore) -> None:
        self.ward = ward
        self.manager = HumanInteractionManager(store, clock=ward.engine.clock)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something with the manager, as somebody of the tenant."""
        with TenantContext(TENANT):
            return asyncio.run(work)

    def asks(self, execution: Execution) -> Change:
        """The handler of the claimed step asks."""
        ask = ask_person(execution.ctx, execution.config, execution.input)
        return self.ward.engine.answered(execution, ask)

    def park(self, run_id: str, step_id: str = "human_1", visit: int = 1) -> InteractionRequest:
        """Claim the step and have it ask."""
        assert self.asks(self.ward.claim(run_id, step_id, visit)).applied
        return self.request(run_id, step_id, visit)

    def case(self, run_id: str, step_id: str = "human_1", visit: int = 1) -> Case | None:
        return self.ward.store.interactions.case_of_step(TENANT, run_id, step_id, visit)

    def request(self, run_id: str, step_id: str = "human_1", visit: int = 1) -> InteractionRequest:
        """What the step asked in this visit."""
        case = self.case(run_id, step_id, visit)
        assert case is not None
        return case.request

    def requests(self, run_id: str) -> list[InteractionRequest]:
        return self.ward.store.interactions.of_run(TENANT, run_id)

    def answer(self, request: InteractionRequest, by: str = "ann", **what: Any) -> InteractionResponse:
        return self.call(self.manager.respond(request.request_id, by, **({"approved": True} | what)))

    def hint(self, run_id: str, step_id: str = "human_1", visit: int = 1) -> None:
        """Somebody looks whether the step can go on."""
        assert self.ward.begin(run_id, step_id, visit) is None

    def knock(self, run_id: str, step_id: str = "human_1", visit: int = 1) -> bool:
        """As :meth:`hint`, by a process of its own; whether the step still waits."""
        engine = self.ward.another_engine()
        return engine.still_asks(Hint(TENANT, run_id, step_id, visit, ""))
