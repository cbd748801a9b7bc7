"""The pages for people who are signed in. Everything is a link or a form; looking changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from llmteam.human import (
    AccessTokenError,
    InteractionChangedError,
    InteractionClosedError,
    InvalidResponseError,
    ResponseTooLargeError,
)
from llmteam.human.interactions import LISTED
from llmteam.human.rulings import Case
from llmteam.web import inbox, sessions
from llmteam.web.answers import filled
from llmteam.web.csrf import check_form, form_token
from llmteam.web.identity import Identity, PageIdentity, session_cookie
from llmteam.web.parts import parts_of
from llmteam.web.problems import Problem, problem_of
from llmteam.web.render import page
from llmteam.web.view import Said, Visitor, request_page

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

Form = Annotated[dict[str, str], Depends(sessions.session_form)]

_ENTERED_ERRORS = (InvalidResponseError, ResponseTooLargeError)
CHANGED = "It has changed since you opened it. This is what it says now: read it again, then decide."


@router.get("/")
async def list_page(request: Request, identity: PageIdentity, scope: str = "mine") -> Response:
    """Open requests: those of the person, or all."""
    everybodys = scope == "all"
    found = await inbox.open_requests(parts_of(request), identity, everybodys=everybodys, limit=LISTED)
    token = sessions.session_token(request)
    return page(
        request, "list.html", identity=identity, requests=found, everybodys=everybodys, token=token, most=LISTED
    )


@router.get("/sign-in")
async def sign_in_page(request: Request, token: str = "", next: str = "") -> Response:  # noqa: A002
    """The form to sign in with; ``token`` fills it, so that a link leads here and one button on."""
    return _sign_in(request, token=token, after=next)


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Keep the token as this browser's session."""
    form, parts = await sessions.form_of(request), parts_of(request)
    check_form(parts, request.cookies.get(sessions.visit_cookie(parts), ""), form)
    token = "".join(form.get("token", "").split())
    after = form.get("next", "")
    try:
        access = parts.signer.read_access(token, parts.now())
    except AccessTokenError as exc:
        return _sign_in(request, after=after, problem=str(exc), status=401)
    if len(token) > sessions.MAX_TOKEN:
        said = "this token names so many groups that browsers do not keep it: ask for one with fewer"
        return _sign_in(request, after=after, problem=said, status=422)
    response = RedirectResponse(parts.base + sessions.next_page(after), 303)
    sessions.begin(parts, response, token, access)
    return response


def _sign_in(
    request: Request, *, token: str = "", after: str = "", problem: str = "", status: int = 200
) -> HTMLResponse:
    parts, visit = parts_of(request), sessions.visit(request)
    response = page(
        request,
        "sign_in.html",
        status,
        token=form_token(parts, visit),
        access_token=token,
        after=sessions.next_page(after),
        problem=problem,
    )
    sessions.remember_visit(parts, response, visit)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, form: Form) -> Response:
    """Forget who this browser belongs to."""
    parts = parts_of(request)
    response = RedirectResponse(f"{parts.base}/sign-in", 303)
    sessions.end(parts, response)
    return response


@router.get("/requests/{request_id}")
async def show(request: Request, identity: PageIdentity, request_id: str) -> Response:
    """One request."""
    case = await inbox.seen_case(parts_of(request), identity, request_id)
    return await request_page(request, case, _visitor(request, identity, request_id))


@router.post("/requests/{request_id}/answer")
async def answer(request: Request, identity: PageIdentity, form: Form, request_id: str) -> Response:
    """Answer it."""
    await inbox.seen_case(parts_of(request), identity, request_id)
    visitor = _visitor(request, identity, request_id)
    refused = await take_answer(request, request_id, visitor, form)
    return refused or _back(request, request_id)


@router.post("/requests/{request_id}/messages")
async def send_message(request: Request, identity: PageIdentity, form: Form, request_id: str) -> Response:
    """Write into a chat."""
    await inbox.seen_case(parts_of(request), identity, request_id)
    visitor = _visitor(request, identity, request_id)
    refused = await take_message(request, request_id, visitor, form)
    return refused or _back(request, request_id, "#messages")


@router.post("/requests/{request_id}/claim")
async def claim(request: Request, identity: PageIdentity, form: Form, request_id: str) -> Response:
    """Say that the person works on it."""
    await inbox.seen_case(parts_of(request), identity, request_id)
    done = parts_of(request).manager.claim(request_id, identity.person, groups=identity.groups)
    refused = await attempt(request, request_id, _visitor(request, identity, request_id), form, done)
    return refused or _back(request, request_id)


@router.post("/requests/{request_id}/delegate")
async def delegate(request: Request, identity: PageIdentity, form: Form, request_id: str) -> Response:
    """Hand it to somebody else."""
    case = await inbox.seen_case(parts_of(request), identity, request_id)
    visitor, to = _visitor(request, identity, request_id), form.get("to", "").strip()
    if not 0 < len(to) <= 255:
        said = Said(entered=form, problems={"to": "say to whom, in at most 255 characters"})
        return await request_page(request, case, visitor, said, 422)
    done = parts_of(request).manager.delegate(request_id, identity.person, to, groups=identity.groups)
    refused = await attempt(request, request_id, visitor, form, done)
    return refused or RedirectResponse(f"{parts_of(request).base}/", 303)


@router.post("/requests/{request_id}/cancel")
async def cancel(request: Request, identity: PageIdentity, form: Form, request_id: str) -> Response:
    """Withdraw it, as an operator."""
    await inbox.seen_case(parts_of(request), identity, request_id)
    inbox.check_operator(identity, "cancel requests")
    done = parts_of(request).manager.cancel(request_id, form.get("reason", "").strip(), by=identity.person)
    refused = await attempt(request, request_id, _visitor(request, identity, request_id), form, done)
    return refused or _back(request, request_id)


def _visitor(request: Request, identity: Identity, request_id: str) -> Visitor:
    action = f"{parts_of(request).base}/requests/{request_id}"
    return Visitor(identity.person, identity.groups, action, sessions.session_token(request), identity)


def _back(request: Request, request_id: str, place: str = "") -> Response:
    return RedirectResponse(f"{parts_of(request).base}/requests/{request_id}{place}", 303)


# -- what pages of sessions and of links have in common


async def take_answer(
    request: Request, request_id: str, visitor: Visitor, form: Mapping[str, str], **more: Any
) -> Response | None:
    """Answer a request as a form says; the page that tells why not, or None."""
    parts = parts_of(request)
    case = await inbox.case_of(parts, request_id)
    given = filled(case.request, form)
    if given.problems and case.request.status.is_open:
        if given.answer["shown_hash"] != case.request.shown_hash:
            return await _refused(request, visitor, case, form, InteractionChangedError(request_id))
        return await request_page(request, case, visitor, Said(entered=form, problems=given.problems), 422)
    done = parts.manager.respond(request_id, visitor.person, groups=visitor.groups, **given.answer, **more)
    return await attempt(request, request_id, visitor, form, done)


async def take_message(request: Request, request_id: str, visitor: Visitor, form: Mapping[str, str]) -> Response | None:
    """Write into a chat as a form says; the page that tells why not, or None."""
    text = form.get("text", "").replace("\r\n", "\n")
    done = parts_of(request).manager.send_message(request_id, visitor.person, text, groups=visitor.groups)
    return await attempt(request, request_id, visitor, form, done)


async def attempt(
    request: Request, request_id: str, visitor: Visitor, form: Mapping[str, str], done: Awaitable[object]
) -> Response | None:
    """Have it done; when the request refuses, its page with the reason and with what was entered."""
    try:
        await done
    except (InteractionClosedError, InteractionChangedError, *_ENTERED_ERRORS) as exc:
        case = await inbox.case_of(parts_of(request), request_id)
        return await _refused(request, visitor, case, form, exc)
    return None


async def _refused(request: Request, visitor: Visitor, case: Case, form: Mapping[str, str], exc: Exception) -> Response:
    status = problem_of(exc).status
    match exc:
        case InteractionClosedError():
            ended = "" if not case.request.status.is_open else "The time for it is over."
            said = Said("Your answer was not taken: it is closed already.", True, ended=ended)
        case InteractionChangedError():
            kept = {name: form[name] for name in ("comment",) if name in form}
            said = Said(CHANGED, True, entered=kept)
        case InvalidResponseError():
            said = Said(entered=form, problems={"": exc.problem})
        case _:
            said = Said(str(exc), True, entered=form)
    return await request_page(request, case, visitor, said, status)


def problem_page(request: Request, problem: Problem) -> Response:
    """The page of a refusal; whoever is not signed in can do so on it."""
    if problem.status == 401:
        # Who comes for the first time has done nothing wrong.
        known = session_cookie(parts_of(request)) in request.cookies
        return _sign_in(request, after=request.url.path, problem=problem.detail if known else "", status=401)
    response = page(request, "problem.html", problem.status, problem=problem)
    response.headers.update(problem.headers)
    return response
