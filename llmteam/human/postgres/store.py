"""Requests in Postgres: one transaction per change, three round trips, with the audit record."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from llmteam import metrics
from llmteam.audit.postgres import write_in
from llmteam.db.engine import Database
from llmteam.db.errors import constraint_of
from llmteam.db.hot import HotConnection, Script
from llmteam.db.waking import WAKE_STEP
from llmteam.dispatch import Dispatcher, Hint
from llmteam.events.models import EventScope
from llmteam.events.postgres import insert_values
from llmteam.human.exceptions import AnswerLinkError, InteractionNotFoundError
from llmteam.human.interactions import LISTED, DueRequest, request_channel
from llmteam.human.models import InteractionMessage, InteractionRequest, InteractionResponse
from llmteam.human.postgres import rows
from llmteam.human.postgres import statements as sql
from llmteam.human.postgres.writing import write_new, write_notices
from llmteam.human.rulings import Case, Rule, Ruling
from llmteam.ids import Clock, utc_now
from llmteam.wakeup import MemoryWakeup, Wakeup, channel

logger = logging.getLogger(__name__)


class PostgresInteractions:
    """The :class:`~llmteam.human.interactions.Interactions` in SQL.

    Args:
        wakeup: what other processes listen to; without it they look on their own.
        dispatcher: sends the hint of a step that goes on; without it a sweep does, some seconds later.
    """

    keeps_notifications = True
    keeps_audit = True

    def __init__(
        self,
        database: Database,
        *,
        wakeup: Wakeup | None = None,
        dispatcher: Dispatcher | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.wakeup: Wakeup = MemoryWakeup() if wakeup is None else wakeup
        self._database = database
        self._dispatcher = dispatcher
        self._clock = clock

    def create(self, ruling: Ruling) -> InteractionRequest:
        """As :meth:`Interactions.create`."""
        request = ruling.request
        tenant_id, ident = request.tenant_id, (request.tenant_id, request.request_id)
        try:
            with self._database.hot(tenant_id) as connection:
                writing = Script()
                write_new(writing, request)
                if request.run_id:
                    connection.script(sql.LOCK_RUN, (tenant_id, request.run_id), begin=True)
                    writing.run(connection)
                else:
                    writing.run(connection, begin=True)
                run = self._run_side(connection, ident)
                self._finish(connection, ruling, run)
        except Exception as exc:
            if constraint_of(exc) != "interactions_step":
                raise
            known = self.case_of_step(tenant_id, request.run_id, request.step_name, request.visit)
            if known is None:
                raise
            return known.request
        self._after(request, None)
        return request

    def _run_side(self, connection: HotConnection, ident: tuple[str, str]) -> tuple[Any, ...]:
        return (connection.script(sql.READ_CASE, ident) or [()])[0][rows.REQUEST_WIDTH + 2 :]

    def apply(self, tenant_id: str, request_id: str, rule: Rule) -> Ruling | None:
        """As :meth:`Interactions.apply`."""
        ident = (tenant_id, request_id)
        with self._database.hot(tenant_id) as connection:
            look = sql.LOCK_RUN_OF_REQUEST + sql.LOCK_REQUEST + sql.READ_CASE
            found = connection.script(look, (tenant_id, *ident, *ident, *ident), begin=True)
            if not found:
                raise InteractionNotFoundError(request_id)
            case = rows.case_of(tenant_id, found[0])
            ruling = rule(case)
            if ruling is None:
                return None
            queue = self._write(connection, case, ruling)
            self._finish(connection, ruling, found[0][rows.REQUEST_WIDTH + 2 :])
        self._after(ruling.request, queue)
        return ruling

    def _write(self, connection: HotConnection, case: Case, ruling: Ruling) -> str | None:
        """Write the change; the queue of the step that goes on."""
        request, tenant_id = ruling.request, ruling.request.tenant_id
        writing = Script()
        if ruling.link is not None:
            writing.add(sql.USE_LINK, tenant_id, *ruling.link)
        writing.add(sql.UPDATE_REQUEST, *rows.changed_values(request))
        if ruling.vote is not None:
            writing.add(sql.PUT_RESPONSE, *rows.response_values(tenant_id, ruling.vote, ruling.final))
        if ruling.message is not None:
            said = ruling.message
            values = (tenant_id, said.request_id, said.seq, said.sender_id, said.text, said.sent_at)
            writing.add(sql.INSERT_MESSAGE, *values)
        moved = ruling.closes or request.deadline != case.request.deadline
        if request.parked and moved and case.request.status.is_open:
            moment = None if ruling.closes else request.deadline
            writing.add(WAKE_STEP, moment, moment, tenant_id, request.run_id, request.step_name, request.visit)
        try:
            woken = writing.run(connection)
        except Exception as exc:
            if constraint_of(exc) == "used_links_pkey":
                raise AnswerLinkError("used") from None
            raise
        return woken[0][0] if ruling.closes and woken else None

    def _finish(self, connection: HotConnection, ruling: Ruling, run: Sequence[Any]) -> None:
        """Events, notifications and the audit record, then the commit."""
        request, writing = ruling.request, Script()
        if ruling.events and run and run[0] is not None:
            next_seq, instance_id, segment_id = run
            scope = EventScope(request.tenant_id, request.run_id, instance_id, segment_id)
            text, params = insert_values(scope, next_seq, self._clock(), ruling.events)
            writing.add(text + ";", *params)
            writing.add(sql.SET_NEXT_SEQ, next_seq + len(ruling.events), request.tenant_id, request.run_id)
        write_notices(writing, request, ruling.notices)
        write_in(writing, request.tenant_id, ruling.audit, now=self._clock())
        writing.add(sql.COMMIT).run(connection)
        metrics.AUDIT_RECORDS.add(value=len(ruling.audit))

    def _after(self, request: InteractionRequest, queue: str | None) -> None:
        names = [request_channel(request.tenant_id, request.request_id)]
        if request.run_id:
            names.append(channel(request.tenant_id, request.run_id))
        self.wakeup.notify(*names)
        if queue is not None and self._dispatcher is not None:
            hint = Hint(request.tenant_id, request.run_id, request.step_name, request.visit, queue)
            try:
                self._dispatcher.send([hint])
            except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises, the answer is written
                logger.warning("a hint was not sent (%s); a sweep sends it again", exc)

    def drain(self) -> tuple[()]:
        """As :meth:`Interactions.drain`: rows of the same transaction have it all."""
        return ()

    # -- looking

    def case(self, tenant_id: str, request_id: str) -> Case | None:
        """As :meth:`Interactions.case`."""
        found = self._read(tenant_id, sql.READ_CASE, tenant_id, request_id)
        return rows.case_of(tenant_id, found[0]) if found else None

    def case_of_step(self, tenant_id: str, run_id: str, step_id: str, visit: int) -> Case | None:
        """As :meth:`Interactions.case_of_step`."""
        found = self._read(tenant_id, sql.READ_CASE_OF_STEP, tenant_id, run_id, step_id, visit)
        return rows.case_of(tenant_id, found[0]) if found else None

    def open_requests(
        self, tenant_id: str, *, person: str | None = None, groups: Collection[str] = (), limit: int = LISTED
    ) -> list[InteractionRequest]:
        """As :meth:`Interactions.open_requests`."""
        found = self._read(tenant_id, sql.READ_OPEN, tenant_id, person, person, list(groups), limit)
        return [rows.request_of(tenant_id, row) for row in found]

    def of_run(self, tenant_id: str, run_id: str) -> list[InteractionRequest]:
        """As :meth:`Interactions.of_run`."""
        return [rows.request_of(tenant_id, row) for row in self._read(tenant_id, sql.READ_OF_RUN, tenant_id, run_id)]

    def messages(self, tenant_id: str, request_id: str, after: int = 0) -> list[InteractionMessage]:
        """As :meth:`Interactions.messages`."""
        found = self._read(tenant_id, sql.READ_MESSAGES, tenant_id, request_id, after)
        return [rows.message_of(row) for row in found]

    def replace(self, request: InteractionRequest) -> None:
        """As :meth:`Interactions.replace`."""
        if not self._read(request.tenant_id, sql.REPLACE_REQUEST, *rows.changed_values(request)):
            raise InteractionNotFoundError(request.request_id)
        self._after(request, None)

    def put_response(self, tenant_id: str, response: InteractionResponse) -> None:
        """As :meth:`Interactions.put_response`."""
        case = self.case(tenant_id, response.request_id)
        if case is None:
            raise InteractionNotFoundError(response.request_id)
        values = rows.response_values(tenant_id, response, True)
        del values[3]
        self._read(tenant_id, sql.PUT_FINAL + "SELECT 1", *values, tenant_id, response.request_id)
        self._after(case.request, None)

    def take_due(self, limit: int) -> list[DueRequest]:
        """As :meth:`Interactions.take_due`; as the sweeper."""
        return [DueRequest(*row) for row in self._sweep(sql.TAKE_DUE, limit)]

    def purge(self, older_than: timedelta, limit: int) -> int:
        """As :meth:`Interactions.purge`; as the sweeper."""
        self._sweep(sql.BY_INDEX + sql.PURGE_LINKS, limit)
        return len(self._sweep(sql.BY_INDEX + sql.PURGE, older_than, limit))

    def _sweep(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        with self._database.hot(None) as connection:
            return connection.script(statement, params, role="llmteam_sweeper") or []

    def close(self) -> None:
        """Let go of connections."""
        self.wakeup.close()
        self._database.close()

    def _read(self, tenant_id: str, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        with self._database.hot(tenant_id) as connection:
            return connection.script(statement, params) or []
