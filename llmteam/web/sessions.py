"""Sessions of browsers: a cookie with the access token, and before that one that binds the form to sign in with."""

from __future__ import annotations

import re
import secrets
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from llmteam import codec
from llmteam.human.links import Access
from llmteam.web.csrf import check_form, form_token
from llmteam.web.identity import session_cookie
from llmteam.web.parts import Parts, parts_of

#: Fields that a form has at most.
_FIELDS = 2000
#: Bytes of the longest cookie that browsers keep, with room for its name and attributes.
MAX_TOKEN = 3800
_NEXT = re.compile(r"/requests/[A-Za-z0-9._:-]{1,128}")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that was sent; of several with one name, the last.

    Raises FastAPI's ``RequestValidationError``, or :class:`NotJSONError` for text that cannot be kept.
    """
    body = await request.body()
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
    except ValueError:
        fault = {"type": "form", "loc": ("body",), "msg": "the form cannot be read"}
        raise RequestValidationError([fault]) from None
    form = dict(pairs)
    codec.check(form)
    return form


async def session_form(request: Request) -> dict[str, str]:
    """The fields of a form of this session. Raises :class:`FormExpiredError` for another's."""
    form = await form_of(request)
    parts = parts_of(request)
    check_form(parts, request.cookies.get(session_cookie(parts), ""), form)
    return form


def session_token(request: Request) -> str:
    """What forms of this session carry."""
    parts = parts_of(request)
    return form_token(parts, request.cookies.get(session_cookie(parts), ""))


def begin(parts: Parts, response: Response, token: str, access: Access) -> None:
    """Have the browser keep the token until it ends."""
    seconds = int((access.expires_at - parts.now()).total_seconds())
    # Lax, since people come here by links in messages; nothing but a form's token lets them change anything.
    response.set_cookie(
        session_cookie(parts), token, max_age=seconds, path="/", secure=parts.is_secure, httponly=True, samesite="lax"
    )


def end(parts: Parts, response: Response) -> None:
    """Have the browser forget the token."""
    response.delete_cookie(session_cookie(parts), path="/", secure=parts.is_secure, httponly=True, samesite="lax")


def visit_cookie(parts: Parts) -> str:
    """The name of the cookie that a visitor has who is not signed in."""
    return "__Host-llmteam-visit" if parts.is_secure else "llmteam-visit"


def visit(request: Request) -> str:
    """What only this visitor's browser has; made on the first visit."""
    return request.cookies.get(visit_cookie(parts_of(request))) or secrets.token_urlsafe(24)


def remember_visit(parts: Parts, response: Response, value: str) -> None:
    """Have the browser keep it until it is closed."""
    response.set_cookie(visit_cookie(parts), value, path="/", secure=parts.is_secure, httponly=True, samesite="strict")


def next_page(text: str) -> str:
    """Where to go after signing in: a request's page, or the list."""
    return text if _NEXT.fullmatch(text) else "/"
