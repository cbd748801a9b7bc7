"""Templates, and the values that all of them have."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from llmteam.web.data import shown
from llmteam.web.parts import parts_of


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("llmteam.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["moment"] = moment
    environment.filters["words"] = lambda value: str(value).replace("_", " ")
    return environment


def moment(when: datetime) -> str:
    """A moment to the minute, in UTC."""
    return f"{when:%Y-%m-%d %H:%M} UTC"


def left(when: datetime, now: datetime) -> str:
    """How far away a moment is."""
    seconds = (when - now).total_seconds()
    if seconds <= 0:
        return "over"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"in {count} {unit}{'' if count == 1 else 's'}"
    return "in less than a minute"


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page. ``identity`` in its context is who is signed in, if anybody is."""
    parts = parts_of(request)
    context.setdefault("identity", None)
    text = _environment().get_template(template).render(base=parts.base, now=parts.now(), left=left, **context)
    return HTMLResponse(text, status)
