"""No address of the web inbox gives a tenant anything of another one, and none is left out of the table.

Whoever asks is an operator of their own tenant, and knows the name of everything that the other one has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from fastapi import APIRouter, FastAPI

from llmteam.canvas import SegmentDefinition
from llmteam.canvas.runs import Start
from llmteam.human import InteractionRequest
from llmteam.human.links import Access, AnswerLink
from llmteam.ids import new_id
from llmteam.tenancy import TenantContext
from llmteam.web import create_app
from llmteam.web.csrf import FIELD, form_token
from llmteam.web.identity import session_cookie
from tests.integration.web.runs_site import PAIR, RunsSite, runs_site
from tests.security.walking import Scene
from tests.services import PostgresService, url_of
from tests.site import Api

PERSON = "ann"


@dataclass
class Visit(Scene):
    """A scene at the web inbox: ``api`` and ``browser`` are those of whoever calls."""

    place: Any = None

    @property
    def app(self) -> FastAPI:
        return create_app(self.place.site.parts)

    @property
    def api(self) -> Api:
        made: Api = self.place.api(PERSON, "operators", tenant=self.me)
        return made

    def cookies(self) -> dict[str, str]:
        parts = self.place.site.parts
        return {session_cookie(parts): self.token}

    @property
    def token(self) -> str:
        made: str = self.place.site.token(PERSON, "operators", tenant=self.me)
        return made

    def page(self, path: str) -> requests.Response:
        return requests.get(self.place.site.url + path, cookies=self.cookies(), timeout=30)

    def form(self, path: str, **fields: str) -> requests.Response:
        """A form as the session's own pages have it."""
        session = self.cookies()
        token = form_token(self.place.site.parts, next(iter(session.values())))
        return self.sent(path, {FIELD: token, **fields}, session)

    def sent(self, path: str, fields: dict[str, str], cookies: dict[str, str]) -> requests.Response:
        return requests.post(
            self.place.site.url + path, data=fields, cookies=cookies, timeout=30, allow_redirects=False
        )

    def link(self, which: str = "asked") -> str:
        """A signed link to one of the owner's requests, in the name of the caller's tenant."""
        parts, asked = self.place.site.parts, getattr(self.things, which)
        until = parts.now().replace(year=parts.now().year + 1)
        said = (self.me, asked.request_id, "ann", asked.shown_hash, self.things.link_id)
        return str(parts.signer.sign_link(AnswerLink(*said, until)))

    def by_link(self, rest: str, which: str = "asked", **fields: str) -> requests.Response:
        token = self.link(which)
        return self.sent(f"/answer/{token}{rest}", {FIELD: form_token(self.place.site.parts, token), **fields}, {})


@dataclass(frozen=True)
class Way:
    """An address with a call of it; ``everybodys`` is for what is no tenant's, with the reason."""

    call: Callable[[Visit], requests.Response]
    everybodys: str = ""


def of_request(rest: str = "", which: str = "asked") -> Callable[[Visit], str]:
    return lambda v: f"/requests/{getattr(v.things, which).request_id}{rest}"


def api_get(path: Callable[[Visit], str]) -> Way:
    return Way(lambda v: v.api.get(path(v)))


def api_post(path: Callable[[Visit], str], **body: Any) -> Way:
    return Way(lambda v: v.api.post(path(v), {name: given(v, value) for name, value in body.items()}))


def given(visit: Visit, value: Any) -> Any:
    return value(visit) if callable(value) else value


def shown(visit: Visit) -> str:
    return str(visit.things.asked.shown_hash)


def chat_shown(visit: Visit) -> str:
    return str(visit.things.chat.shown_hash)


def of_run(rest: str = "", which: str = "going") -> Callable[[Visit], str]:
    return lambda v: f"/runs/{getattr(v.things, which)}{rest}"


def fixed(path: str) -> Callable[[Visit], str]:
    return lambda visit: path


def form(path: Callable[[Visit], str], **fields: Any) -> Way:
    return Way(lambda v: v.form(path(v), **{name: given(v, value) for name, value in fields.items()}))


NOBODYS = "the same for everybody"
BROWSER = "about this browser's own session only"

WAYS: dict[str, Way] = {
    "GET /api/me": api_get(fixed("/me")),
    "GET /api/requests": api_get(fixed("/requests?scope=all")),
    "GET /api/requests/{request_id}": api_get(of_request()),
    "POST /api/requests/{request_id}/response": api_post(of_request("/response"), approved=True, shown_hash=shown),
    "POST /api/requests/{request_id}/claim": api_post(of_request("/claim")),
    "POST /api/requests/{request_id}/delegate": api_post(of_request("/delegate"), to="eve"),
    "GET /api/requests/{request_id}/messages": api_get(of_request("/messages", "chat")),
    "POST /api/requests/{request_id}/messages": api_post(of_request("/messages", "chat"), text="mine"),
    "POST /api/requests/{request_id}/close": api_post(of_request("/close", "chat"), shown_hash=chat_shown),
    "POST /api/requests/{request_id}/cancel": api_post(of_request("/cancel"), reason="mine"),
    "GET /api/runs": api_get(fixed("/runs")),
    "POST /api/runs": Way(lambda v: v.api.post("/runs", {"segment": "pair", "input": None, "run_id": v.things.over})),
    "GET /api/runs/{run_id:path}/events": api_get(of_run("/events", "over")),
    "POST /api/runs/{run_id:path}/cancel": api_post(of_run("/cancel")),
    "POST /api/runs/{run_id:path}/pause": api_post(of_run("/pause"), grace=0),
    "POST /api/runs/{run_id:path}/resume": api_post(of_run("/resume", "paused")),
    "GET /api/runs/{run_id:run}": api_get(of_run("?outputs=true", "over")),
    "GET /api/catalog": Way(lambda v: v.api.get("/catalog"), everybodys=NOBODYS),
    "GET /api/segments": api_get(fixed("/segments?archived=true")),
    "GET /api/segments/{segment_id}": api_get(lambda v: f"/segments/{v.things.segment}"),
    "GET /api/openapi.json": Way(lambda v: v.api.get("/openapi.json"), everybodys=NOBODYS),
    "GET /": Way(lambda v: v.page("/?scope=all")),
    "GET /sign-in": Way(lambda v: v.page("/sign-in"), everybodys=NOBODYS),
    "POST /sign-in": Way(lambda v: v.form("/sign-in", token=v.token), everybodys=BROWSER),
    "POST /sign-out": Way(lambda v: v.form("/sign-out"), everybodys=BROWSER),
    "GET /requests/{request_id}": Way(lambda v: v.page(of_request()(v))),
    "POST /requests/{request_id}/answer": form(of_request("/answer"), decision="approve", shown_hash=shown),
    "POST /requests/{request_id}/messages": form(of_request("/messages", "chat"), text="mine"),
    "POST /requests/{request_id}/claim": form(of_request("/claim")),
    "POST /requests/{request_id}/delegate": form(of_request("/delegate"), to="eve"),
    "POST /requests/{request_id}/cancel": form(of_request("/cancel"), reason="mine"),
    "GET /answer/{token}": Way(lambda v: v.page(f"/answer/{v.link()}")),
    "POST /answer/{token}": Way(lambda v: v.by_link("", decision="approve", shown_hash=shown(v))),
    "POST /answer/{token}/answer": Way(lambda v: v.by_link("/answer", decision="approve", shown_hash=shown(v))),
    "POST /answer/{token}/messages": Way(lambda v: v.by_link("/messages", "chat", text="mine")),
    "GET /health": Way(lambda v: v.page("/health"), everybodys=NOBODYS),
    "GET /static/inbox.css": Way(lambda v: v.page("/static/inbox.css"), everybodys=NOBODYS),
    "GET /static/inbox.svg": Way(lambda v: v.page("/static/inbox.svg"), everybodys=NOBODYS),
}


def addresses(routes: Any) -> Iterator[str]:
    """Method and path of every route, those of routers that are part of others too."""
    for route in routes:
        inner = getattr(route, "original_router", None) or (route if isinstance(route, APIRouter) else None)
        if inner is not None:
            yield from addresses(inner.routes)
            continue
        for method in route.methods - {"HEAD"}:
            yield f"{method} {route.path}"


@pytest.fixture(scope="module")
def place(postgres: PostgresService, valkey: str) -> Iterator[RunsSite]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    with runs_site(own.create(), valkey) as place:
        yield place
    own.drop_all()


@pytest.fixture
def visit(place: RunsSite, postgres: PostgresService, valkey: str) -> Visit:
    """The owner's requests, runs and segments, and somebody of another tenant who knows their names."""
    database = place.runs.engine.store.interactions._database  # type: ignore[attr-defined]
    visit = Visit(place=place, superuser_url=url_of(postgres.superuser_url, database.url.database), valkey=valkey)
    things = visit.things = SimpleNamespace(link_id=new_id(), segment="pair")
    with TenantContext(visit.owner):
        things.asked = asyncio.run(ask(visit, "approval", visit.canary, visit.canary))
        things.chat = asyncio.run(ask(visit, "chat", visit.canary))
        asyncio.run(place.site.manager.send_message(things.chat.request_id, "ann", visit.canary))
    segment = SegmentDefinition.from_dict({**PAIR, "segment_id": things.segment, "name": visit.canary})
    assert place.runs.registry is not None
    place.runs.registry.put(visit.owner, segment, visit.canary)
    things.over, things.going, things.paused = (start(visit, segment) for _ in range(3))
    place.runs.cancel(visit.owner, things.over)
    place.runs.surgery.pause(visit.owner, things.paused)
    return visit


async def ask(visit: Visit, kind: str, *what: str) -> InteractionRequest:
    manager = visit.place.site.manager
    asked: InteractionRequest = await getattr(manager, f"request_{kind}")(*what, assignee=PERSON)
    return asked


def start(visit: Visit, segment: SegmentDefinition) -> str:
    run: str = visit.place.runs.start(Start(visit.owner, segment, {"a": visit.canary}))
    return run


def told(visit: Visit, way: Way, me: str) -> tuple[int, str]:
    with visit.acting(me):
        response = way.call(visit)
    headers = {name: value for name, value in response.headers.items() if name.lower() not in ("date", "set-cookie")}
    return response.status_code, f"{response.status_code} {headers} {response.text}"


def test_every_address_has_a_line_and_every_line_an_address(visit: Visit) -> None:
    assert set(addresses(visit.app.routes)) == set(WAYS)


@pytest.mark.parametrize("name", WAYS)
def test_a_stranger_gets_nothing_and_changes_nothing(name: str, visit: Visit) -> None:
    way, before = WAYS[name], visit.snapshot()

    status, text = told(visit, way, visit.stranger)

    assert visit.canary not in text
    assert visit.owner not in text
    assert visit.snapshot() == before
    assert status < 500


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.everybodys])
def test_the_same_call_reaches_what_is_ones_own(name: str, visit: Visit) -> None:
    """Or the walk would prove nothing."""
    way = WAYS[name]
    _, theirs = told(visit, way, visit.stranger)
    before = visit.snapshot()

    status, mine = told(visit, way, visit.owner)

    assert status < 400 or name == "POST /api/runs", mine
    assert visit.canary in mine or visit.owner in mine or visit.snapshot() != before or mine != theirs


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.everybodys and "answer/" not in name])
def test_nobody_without_a_token_gets_anything(name: str, visit: Visit) -> None:
    method, _, path = name.partition(" ")
    things, before = visit.things, visit.snapshot()
    where = path.replace("{request_id}", things.asked.request_id).replace("{segment_id}", things.segment)
    where = where.replace("{run_id:path}", things.going).replace("{run_id:run}", things.going)

    response = requests.request(method, visit.place.site.url + where, json={}, timeout=30)

    assert response.status_code == 401
    assert visit.canary not in response.text
    assert visit.snapshot() == before


def test_a_token_of_another_installation_is_nobodys(visit: Visit) -> None:
    signer = type(visit.place.site.parts.signer)([b"another key that is long enough for this"])
    until = visit.place.site.parts.now().replace(year=2100)
    forged = signer.sign_access(Access(visit.owner, PERSON, ("operators",), until))

    response = Api(visit.place.site.url, forged).get("/requests?scope=all")

    assert response.status_code == 401
    assert visit.canary not in response.text
