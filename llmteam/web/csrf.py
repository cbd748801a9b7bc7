"""Forms come from our pages: each carries a signature over the session that its page was made for."""

from __future__ import annotations

from collections.abc import Mapping

from llmteam.crypto import is_signed, sign
from llmteam.web.exceptions import FormExpiredError
from llmteam.web.parts import Parts

#: The field of a form that carries it.
FIELD = "form_token"
_PURPOSE = "llmteam form"


def form_token(parts: Parts, session: str) -> str:
    """What forms of this session carry. ``session`` is what only the session's browser has: its cookie, its link."""
    return sign(parts.keys[0], _PURPOSE, session.encode())


def check_form(parts: Parts, session: str, form: Mapping[str, str]) -> None:
    """Raise :class:`FormExpiredError` unless a form comes from a page of this session."""
    if not session or not is_signed(parts.keys, _PURPOSE, session.encode(), form.get(FIELD, "")):
        raise FormExpiredError
