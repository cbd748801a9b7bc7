"""Which status an error gives, and the error in words: problem+json (RFC 9457) for programs, a page for people."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmteam.canvas.exceptions import (
    AlreadyRunningError,
    RunNotFoundError,
    RunStateError,
    SegmentArchivedError,
    SegmentValidationError,
    UnknownSegmentError,
)
from llmteam.errors import InfrastructureError, LLMTeamError, NotJSONError, PayloadTooLargeError
from llmteam.human import (
    AccessTokenError,
    AnswerLinkError,
    InteractionChangedError,
    InteractionClosedError,
    InteractionNotFoundError,
    InvalidRequestError,
    InvalidResponseError,
    ResponderNotAllowedError,
    ResponseTooLargeError,
)
from llmteam.ids import InvalidIdentifierError
from llmteam.tenancy import TenantError, TenantLimitExceededError
from llmteam.web.exceptions import BodyTooLargeError, FormExpiredError, NotSignedInError, OperatorsOnlyError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Seconds after which a client may ask again when a server behind us is away.
RETRY_AFTER = 5

#: The first kind that an error is of decides; kinds that derive from one another stand with the narrower first.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (InteractionNotFoundError, 404),
    (InteractionClosedError, 409),
    (InteractionChangedError, 409),
    (ResponderNotAllowedError, 403),
    (OperatorsOnlyError, 403),
    (FormExpiredError, 403),
    (NotSignedInError, 401),
    (AccessTokenError, 401),
    (ResponseTooLargeError, 413),
    (PayloadTooLargeError, 413),
    (BodyTooLargeError, 413),
    (InvalidResponseError, 422),
    (InvalidRequestError, 422),
    (RunNotFoundError, 404),
    (UnknownSegmentError, 404),
    (AlreadyRunningError, 409),
    (RunStateError, 409),
    (SegmentArchivedError, 409),
    (SegmentValidationError, 422),
    (TenantLimitExceededError, 429),
    (TenantError, 403),
    (InvalidIdentifierError, 422),
    (NotJSONError, 422),
    (InfrastructureError, 503),
)
#: What is said of statuses that the server itself gives.
_SAID = {
    404: "there is nothing at this address",
    405: "this address does not take that method",
    413: str(BodyTooLargeError(1_000_000)),
    422: "the body cannot be read as JSON in UTF-8",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal: the status, the sentence, and what goes with it in JSON and in headers."""

    status: int
    detail: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the status is called."""
        return HTTPStatus(self.status).phrase

    def to_dict(self) -> dict[str, Any]:
        """The document of RFC 9457."""
        return {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail, **self.more}


def status_of(exc: Exception) -> int:
    """The status that tells of an error; 500 for one that is nobody's fault but ours."""
    if isinstance(exc, AnswerLinkError):
        return 410 if exc.reason in {"expired", "used"} else 403
    return next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)


def problem_of(exc: Exception) -> Problem:
    """An error as what a client is told. What is our fault is told without its words."""
    if isinstance(exc, RequestValidationError):
        return _invalid(exc.errors())
    if isinstance(exc, HTTPException):
        return _of_server(exc)
    status = status_of(exc)
    if status == 500:
        return Problem(500, "something went wrong here, which the log of the server tells; nothing has changed")
    if status == 503:
        headers = {"Retry-After": str(RETRY_AFTER)}
        return Problem(503, "the database or the broker cannot be reached: try again in a moment", headers=headers)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return Problem(status, str(exc), _more(exc), headers)


def _more(exc: Exception) -> dict[str, Any]:
    if isinstance(exc, InvalidResponseError):
        return {"errors": [{"path": exc.path or "$", "detail": exc.problem}]}
    if isinstance(exc, NotJSONError):
        return {"errors": [{"path": exc.path, "detail": exc.reason}]}
    if isinstance(exc, SegmentValidationError):
        return {"errors": _of_segment(exc)}
    if isinstance(exc, AlreadyRunningError):
        return {"run_id": exc.run_id}
    if isinstance(exc, TenantLimitExceededError):
        return {"limit_type": exc.limit_type, "current": exc.current, "maximum": exc.maximum}
    return {"request_status": exc.status} if isinstance(exc, InteractionClosedError) else {}


def _of_segment(exc: SegmentValidationError) -> list[dict[str, str]]:
    """Every problem of a definition that was sent as ``segment``, with its code and the way out."""
    if exc.result is None:
        return [{"path": "$.segment", "detail": error} for error in exc.errors]
    return [
        {
            "path": f"$.segment.{one.path}" if one.path else "$.segment",
            "detail": one.message,
            "code": one.code,
            "suggestion": one.suggestion,
        }
        for one in exc.result.errors
    ]


def _of_server(exc: HTTPException) -> Problem:
    # A body that cannot be parsed is invalid like one that says the wrong thing.
    status = 422 if exc.status_code == 400 else exc.status_code
    return Problem(status, _SAID.get(status, HTTPStatus(status).description or "refused"))


def _invalid(errors: Sequence[Any]) -> Problem:
    """What is wrong with a body or a query, each with its JSON path and without the value."""
    found = [{"path": _path(error["loc"]), "detail": _said(error)} for error in errors]
    return Problem(422, "; ".join(f"{one['path']}: {one['detail']}" for one in found[:3]), {"errors": found})


def _path(location: Sequence[str | int]) -> str:
    """``("body", "tags", 0)`` as ``$.tags[0]``; what is no part of the body begins with where it stands."""
    where, *keys = location
    if keys and isinstance(keys[0], int) and where == "body":
        # Of text that is no JSON, this is the position.
        return f"$ (character {keys[0]})"
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return f"${path}" if where == "body" else f"{where}{path}"


def _said(error: Any) -> str:
    if error["type"] == "json_invalid":
        return "the body is no JSON"
    text = str(error["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def is_api(request: Request) -> bool:
    """Whether a program asked."""
    return request.url.path.startswith("/api/")


def api_response(problem: Problem) -> JSONResponse:
    """The problem for a program."""
    return JSONResponse(problem.to_dict(), problem.status, problem.headers, media_type=MEDIA_TYPE)


#: Everything that is told to clients.
TOLD: tuple[type[Exception], ...] = (LLMTeamError, RequestValidationError, HTTPException)
