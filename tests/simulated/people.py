"""Whoever answers what steps ask: late, twice, and at the same moment as somebody else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from llmteam.errors import InfrastructureError
from llmteam.human import rules
from llmteam.human.exceptions import InteractionClosedError
from llmteam.human.models import InteractionRequest
from tests.simulated.actors import Actor
from tests.simulated.replies import answer_of

if TYPE_CHECKING:
    from tests.simulated.world import World

TENANT = "acme"


class Person(Actor):
    """Looks at the inbox now and then, and answers some of it."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)

    def boot(self) -> None:
        super().boot()
        self.later(self.world.chance.uniform(0.1, 5.0), self._look)

    def _look(self) -> None:
        chance = self.world.chance
        self.later(chance.choice((0.2, 1.0, 5.0, 30.0, 60.0)), self._look)
        for request in self.world.store.interactions.open_requests(TENANT):
            if chance.random() < 0.4:
                self.answer(request)

    def answer(self, request: InteractionRequest) -> None:
        """Answer, perhaps once more, and perhaps without learning whether it worked."""
        faults, clock = self.world.faults, self.world.schedule.clock
        given = rules.Answer(answer_of(request))
        for _ in range(self.world.chance.choice((1, 1, 2))):
            with suppress(InteractionClosedError, InfrastructureError):
                faults.point(self, "before answer", lambda: InfrastructureError("the database did not answer"))
                self.world.store.interactions.apply(
                    TENANT, request.request_id, lambda case: rules.respond(case, given, clock(), _anybody)
                )
                self.world.witness.committed(TENANT, request.run_id)
                faults.point(self, "after answer", lambda: InfrastructureError("the database did not answer"))


def _anybody(request: InteractionRequest, person: str, groups: object) -> None:
    """Everybody may answer here."""
