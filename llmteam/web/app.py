"""The application: routers, what protects them, and what becomes of errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

import llmteam
from llmteam.errors import LLMTeamError
from llmteam.web import api, links, pages, runs
from llmteam.web.exceptions import BodyTooLargeError
from llmteam.web.parts import Parts
from llmteam.web.problems import TOLD, api_response, is_api, problem_of
from llmteam.web.protection import MAX_BODY, BodyLimit, SecurityHeaders, secure_response, security_headers

_ROUTERS = (api.router, pages.router, links.router)
_FILES = {"inbox.css": "text/css", "inbox.svg": "image/svg+xml"}

logger = logging.getLogger(__name__)


def create_app(parts: Parts) -> FastAPI:
    """The pages and the API over these parts; OpenAPI stands at ``/api/openapi.json``."""
    app = FastAPI(
        title="llmteam inbox",
        version=llmteam.__version__,
        summary="Requests to people, and their answers.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        servers=[{"url": parts.base or "/"}],
        separate_input_output_schemas=True,
    )
    app.state.parts = parts
    headers = security_headers(secure=parts.is_secure)
    app.state.headers = headers
    for kind in TOLD:
        app.add_exception_handler(kind, _refuse)
    # The server's own handler of what nobody expected stands outside of what adds headers.
    app.add_exception_handler(Exception, _fail)
    app.add_middleware(BodyLimit, limit=MAX_BODY, refuse=_too_large)
    app.add_middleware(SecurityHeaders, headers=headers)
    app.state.routers = _ROUTERS if parts.runs is None else (*_ROUTERS, runs.router)
    for router in app.state.routers:
        app.include_router(router)
    app.add_api_route("/health", _health, methods=["GET"], include_in_schema=False)
    for name, media_type in _FILES.items():
        app.add_api_route(f"/static/{name}", _file(name, media_type), methods=["GET"], include_in_schema=False)
    return app


async def _refuse(request: Request, exc: Exception) -> Response:
    """An error in words, for whoever asked."""
    problem = problem_of(exc)
    if problem.status >= 500 and isinstance(exc, LLMTeamError):
        # The route and not the path: a path may hold a link that still works.
        route = getattr(request.scope.get("route"), "path", "")
        logger.error("%s %s: %s", request.method, route, type(exc).__name__, exc_info=exc)
    if problem.status == 405:
        problem.headers["Allow"] = ", ".join(_methods(request) or ["GET"])
    return api_response(problem) if is_api(request) else pages.problem_page(request, problem)


def _methods(request: Request) -> list[str]:
    """All methods that this address takes; the server itself tells those of the first route only."""
    routes = [route for router in request.app.state.routers for route in router.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in route.methods or ()})


async def _fail(request: Request, exc: Exception) -> Response:
    response = await _refuse(request, exc)
    secure_response(response.headers, request.app.state.headers)
    return response


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    response = await _refuse(Request(scope), BodyTooLargeError(MAX_BODY))
    # What was announced is not read, so that nothing else can come on this connection.
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


async def _health() -> dict[str, str]:
    """That the server answers."""
    return {"status": "ok"}


def _file(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        content = files("llmteam.web").joinpath(f"static/{name}").read_bytes()
        return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=3600"})

    return send
