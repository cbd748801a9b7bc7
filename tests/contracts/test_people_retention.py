"""What people were asked is deleted when it has been closed for long, and no run is to be told of it any more."""

from __future__ import annotations

from datetime import timedelta

from llmteam.canvas import SegmentDefinition
from llmteam.canvas.handlers import ask_person
from llmteam.human import rules
from llmteam.human.models import InteractionRequest, InteractionResponse
from llmteam.ids import utc_now
from tests.conformance.desk import TENANT
from tests.conformance.ward import Ward

DAY = 86_400
ASKS = SegmentDefinition.from_dict(
    {"segment_id": "asks", "name": "Asks", "steps": [{"step_id": "ok", "step_type": "human_task", "config": {}}]}
)


def asked(ward: Ward) -> tuple[str, InteractionRequest]:
    """A run whose only step waits for a person."""
    run_id = ward.start(ASKS)
    execution = ward.claim(run_id, "ok")
    ward.engine.answered(execution, ask_person(execution.ctx, {"task_type": "approval"}, {}))
    return run_id, ward.store.interactions.of_run(TENANT, run_id)[0]


def answer(ward: Ward, request: InteractionRequest) -> None:
    given = rules.Answer(InteractionResponse(request_id=request.request_id, responder_id="ann", approved=True))
    ward.store.interactions.apply(TENANT, request.request_id, lambda case: rules.respond(case, given, utc_now()))


def test_a_request_that_is_closed_goes_when_it_is_old(ward: Ward) -> None:
    run_id, request = asked(ward)
    answer(ward, request)
    assert ward.begin(run_id, "ok") is None
    interactions = ward.store.interactions
    assert interactions.purge(timedelta(days=7), 100) == 0

    ward.pass_time(8 * DAY)

    assert interactions.purge(timedelta(days=7), 100) == 1
    assert interactions.case(TENANT, request.request_id) is None


def test_a_request_stays_while_it_is_open_or_its_run_goes_on(ward: Ward) -> None:
    (_, open_), (going, closed) = asked(ward), asked(ward)
    answer(ward, closed)
    ward.pass_time(8 * DAY)

    assert ward.store.interactions.purge(timedelta(days=7), 100) == 0

    assert ward.store.interactions.case(TENANT, open_.request_id) is not None
    ward.begin(going, "ok")
    assert ward.status(going).is_terminal
