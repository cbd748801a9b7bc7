"""Statements that another transaction takes along: what a run does to the requests of its steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from llmteam.db.hot import Script
from llmteam.human.models import InteractionRequest
from llmteam.human.postgres import rows
from llmteam.human.postgres import statements as sql
from llmteam.human.rulings import Notice
from llmteam.ids import new_id


def write_new(script: Script, request: InteractionRequest) -> None:
    """Add the INSERT of a request."""
    script.add(sql.INSERT_REQUEST, *rows.new_values(request))


def write_notices(script: Script, request: InteractionRequest, notices: Sequence[Notice]) -> None:
    """Add what people are to be told; a sweep delivers it."""
    for notice in notices:
        values = (request.tenant_id, new_id(), request.request_id, notice.kind.value, list(notice.recipients))
        script.add(sql.INSERT_NOTIFICATION, *values)


def write_withdrawal(
    script: Script, ident: tuple[str, str], keys: Collection[tuple[str, int]] | None, now: datetime
) -> None:
    """Add the cancelling of what steps of a run (None: all) asked and nobody has answered."""
    steps = None if keys is None else [key[0] for key in keys]
    visits = None if keys is None else [key[1] for key in keys]
    script.add(sql.WITHDRAW, now, now, *ident, steps, steps, visits)


def write_freeze(script: Script, ident: tuple[str, str], now: datetime) -> None:
    """Add the stop of the clocks of a run's requests."""
    script.add(sql.FREEZE, now, *ident)


def write_thaw(script: Script, ident: tuple[str, str], stood: timedelta) -> None:
    """Add that the clocks of a run's requests go on, as if it had not stood still."""
    script.add(sql.THAW, stood, stood, *ident)
