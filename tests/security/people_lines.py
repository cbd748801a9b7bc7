"""A line for each method of the stores of requests to people, and of what is told of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from llmteam.human import InteractionRequest, InteractionResponse, MemoryInteractionStore, rules
from llmteam.human.deliveries import Delivery, Due
from llmteam.human.memory import MemoryInteractions
from llmteam.human.models import InteractionType
from llmteam.human.postgres import PostgresInteractions, PostgresInteractionStore
from llmteam.human.postgres.deliveries import PostgresDeliveries
from llmteam.human.rulings import Ruling
from llmteam.ids import new_id, utc_now
from tests.security.walking import Group, Line, Scene, operator, plain
from tests.unit.human.samples import request

AGO = timedelta(seconds=-1)
STATES = ("pending", "delivered", "dead")
SWEPT = "sweeps look after the requests of all tenants, and get to see names only"


def asked_by(scene: Scene, **fields: Any) -> InteractionRequest:
    return request(
        fields.pop("kind", InteractionType.APPROVAL),
        **{
            "tenant_id": scene.owner,
            "request_id": new_id(),
            "run_id": new_id(),
            "title": scene.canary,
            "description": scene.canary,
            "assignee_id": "ann",
            **fields,
        },
    )


def seed_requests(scene: Scene, core: Any) -> None:
    """Open ones: one that a step waits for, a chat, one that is overdue; and one that was answered."""
    things = scene.things = SimpleNamespace(core=core)
    now = utc_now()

    def ask(**fields: Any) -> InteractionRequest:
        made: InteractionRequest = core.create(rules.open_request(asked_by(scene, **fields), now))
        return made

    things.asked = ask(parked=True)
    things.chat = ask(kind=InteractionType.CHAT)
    things.late = ask(deadline=now - timedelta(minutes=1))
    things.answered = ask()
    vote = InteractionResponse(
        request_id=things.answered.request_id, responder_id="ann", approved=True, comment=scene.canary
    )
    core.apply(scene.owner, things.answered.request_id, lambda case: rules.respond(case, rules.Answer(vote), utc_now()))
    if hasattr(core, "freeze"):
        core.freeze(scene.owner, things.asked.run_id, now)
    core.apply(
        scene.owner, things.chat.request_id, lambda case: rules.send_message(case, "ann", scene.canary, utc_now())
    )


def look_at_requests(scene: Scene) -> Any:
    core, owner, things = scene.things.core, scene.owner, scene.things
    asked = [things.asked, things.chat, things.late, things.answered]
    return [(core.case(owner, one.request_id), core.messages(owner, one.request_id)) for one in asked]


def _mine(scene: Scene, asked: InteractionRequest, **fields: Any) -> InteractionRequest:
    """The owner's request, as one of whoever calls."""
    return asked.changed(tenant_id=scene.me, **fields)


def _same(scene: Scene) -> InteractionRequest:
    return _mine(scene, scene.things.asked, title="mine", description="mine")


def _answer(scene: Scene) -> InteractionResponse:
    return InteractionResponse(request_id=scene.things.asked.request_id, responder_id="ann", approved=True)


def _apply(scene: Scene) -> Any:
    """What whoever decides gets to see of the request."""
    seen: list[Any] = []

    def rule(case: Any) -> None:
        seen.append(case)

    scene.store.apply(scene.me, scene.things.asked.request_id, rule)
    return seen


def _of(scene: Scene) -> tuple[str, str]:
    return scene.me, scene.things.asked.run_id


def _step(scene: Scene) -> tuple[str, str, str, int]:
    asked = scene.things.asked
    return scene.me, asked.run_id, asked.step_name, asked.visit


PEOPLE = Group(
    stores={
        PostgresInteractions: lambda s: PostgresInteractions(s.db),
        MemoryInteractions: lambda s: MemoryInteractions(),
    },
    seed=lambda s: seed_requests(s, s.store),
    look=look_at_requests,
    lines={
        "create": Line(lambda s: s.store.create(Ruling(_same(s)))),
        "apply": Line(_apply),
        "case": Line(lambda s: s.store.case(s.me, s.things.answered.request_id)),
        "case_of_step": Line(lambda s: s.store.case_of_step(*_step(s))),
        "open_requests": Line(lambda s: (s.store.open_requests(s.me), s.store.open_requests(s.me, person="ann"))),
        "of_run": Line(lambda s: s.store.of_run(*_of(s))),
        "messages": Line(lambda s: s.store.messages(s.me, s.things.chat.request_id)),
        "replace": Line(lambda s: s.store.replace(_same(s))),
        "put_response": Line(lambda s: s.store.put_response(s.me, _answer(s))),
        "take_due": operator(lambda s: s.store.take_due(10_000), SWEPT),
        "purge": operator(lambda s: s.store.purge(AGO, 10_000), SWEPT),
    },
    also={
        PostgresInteractions: {
            "drain": plain(lambda s: s.store.drain(), "there is never anything: transactions have it all"),
            "close": plain(lambda s: s.store.close(), "lets go of connections"),
        },
        MemoryInteractions: {
            "drain": operator(lambda s: s.store.drain(), "managers record and tell each in the name of its tenant"),
            "withdraw": Line(lambda s: s.store.withdraw(*_of(s), None, utc_now())),
            "freeze": Line(lambda s: s.store.freeze(*_of(s), utc_now())),
            "thaw": Line(lambda s: s.store.thaw(*_of(s), timedelta(hours=1))),
        },
    },
)


FACES = Group(
    stores={
        PostgresInteractionStore: lambda s: PostgresInteractionStore(s.db),
        MemoryInteractionStore: lambda s: MemoryInteractionStore(),
    },
    seed=lambda s: seed_requests(s, s.store.core),
    look=look_at_requests,
    lines={
        "tenant": plain(lambda s: s.store.tenant(), "says who is current"),
        "close": plain(lambda s: s.store.close(), "lets go of connections"),
        "call": plain(lambda s: s.store.call(lambda: 1), "calls what it is given"),
        "own": plain(lambda s: s.store.own(s.me), "says who is current"),
        "save": Line(lambda s: s.store.save(_same(s)), naming=lambda s: s.store.save(s.things.asked)),
        "get": Line(lambda s: s.store.get(s.things.answered.request_id)),
        "update": Line(
            lambda s: s.store.update(_same(s)),
            naming=lambda s: s.store.update(s.things.asked.changed(title="mine")),
        ),
        "list_pending": Line(lambda s: s.store.list_pending(s.me), naming=lambda s: s.store.list_pending(s.owner)),
        "save_response": Line(lambda s: s.store.save_response(_answer(s))),
        "get_response": Line(lambda s: s.store.get_response(s.things.answered.request_id)),
    },
)


def _seed_deliveries(scene: Scene) -> None:
    seed_requests(scene, PostgresInteractions(scene.db))
    things = scene.things
    with scene.db.hot(scene.owner) as connection:
        connection.script("UPDATE llmteam.notifications SET last_error = %s", (scene.canary,))
    first, *_ = scene.store.records(scene.owner, STATES, 100)
    things.due = Due(scene.owner, first.notification_id, 0)
    delivery = scene.store.begin(things.due)
    assert delivery is not None
    things.delivery = delivery
    with scene.db.hot(scene.owner) as connection:
        connection.script(
            "UPDATE llmteam.notifications SET state = 'dead' WHERE notification_id <> %s", (first.notification_id,)
        )


def _delivery(scene: Scene) -> Delivery:
    return replace(scene.things.delivery, tenant_id=scene.me)


def _due(scene: Scene) -> Due:
    return replace(scene.things.due, tenant_id=scene.me, attempts=1)


DELIVERIES = Group(
    stores={PostgresDeliveries: lambda s: PostgresDeliveries(s.db)},
    seed=_seed_deliveries,
    lines={
        "take": operator(lambda s: s.store.take(10_000), SWEPT),
        "begin": Line(lambda s: s.store.begin(_due(s))),
        "direct": Line(lambda s: s.store.direct(_delivery(s), [("webhook", ("eve",))])),
        "delivered": Line(lambda s: s.store.delivered(_delivery(s))),
        "failed": Line(lambda s: s.store.failed(_delivery(s), "no", 3, 1.0)),
        "postponed": Line(lambda s: s.store.postponed(_delivery(s), 1.0)),
        "drop": Line(lambda s: s.store.drop(_delivery(s))),
        "records": Line(lambda s: s.store.records(s.me, STATES, 100)),
        "retry": Line(lambda s: s.store.retry(s.me, None)),
        "given_up": operator(lambda s: s.store.given_up(), "`doctor` counts what nobody was told"),
    },
)
