"""Following a run over server-sent events: what is stored first, then what comes, each event once, until the end.

Each follower is a watch and at most one batch of events: the next is read when the client has taken the last. Where
the WHATWG HTML standard says how ``EventSource`` comes back (section 9.2), we answer in those words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime

from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from llmteam.errors import InfrastructureError
from llmteam.events.models import WorktrailEvent
from llmteam.events.stream import EventStream
from llmteam.ids import Clock

logger = logging.getLogger(__name__)

#: Bytes that are sent at once, so that one who takes nothing has no more of them waiting in this process.
PIECE_BYTES = 32_768
#: Seconds until a client comes back whose connection broke.
RECONNECT_SECONDS = 1
#: Seconds between two looks while the database is away.
RETRY_SECONDS = 2.0
#: Seconds that a client may take nothing of what was sent before it counts as gone.
STALLED_SECONDS = 60.0

_HEARTBEAT = format_sse_event(comment="nothing has happened")


class EventSource(StreamingResponse):
    """A stream that frees all it holds as soon as its client has gone, or takes nothing any more."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        # Proxies that collect a response before they pass it on are told not to (nginx, ngx_http_proxy_module).
        super().__init__(chunks, headers={"X-Accel-Buffering": "no"})
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()

    async def stream_response(self, send: Send) -> None:
        async def patiently(message: Message) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        try:
            await super().stream_response(patiently)
        except TimeoutError:
            logger.info("a follower has taken nothing for %g s: its connection is closed", STALLED_SECONDS)


async def told(
    stream: EventStream, tenant_id: str, run_id: str, after: int, *, until: datetime, clock: Clock
) -> AsyncGenerator[bytes]:
    """The events behind number ``after`` as server-sent events; ends with the run, and with the access at ``until``.

    While the database is away it goes on to tell that it is there.
    """
    yield format_sse_event(retry=RECONNECT_SECONDS * 1000)
    while clock() < until:
        try:
            async with aclosing(stream.batches(run_id, after_seq=after, tenant_id=tenant_id)) as batches:
                async for batch in batches:
                    if clock() >= until:
                        return
                    for piece in _pieces(batch):
                        yield piece
                    after = (batch[-1].seq or after) if batch else after
            return
        except InfrastructureError as exc:
            logger.warning("a follower of run %s waits: %s", run_id, exc)
            yield _HEARTBEAT
            await asyncio.sleep(RETRY_SECONDS)


def _pieces(batch: Sequence[WorktrailEvent]) -> Iterator[bytes]:
    """The events as text, several small ones together; of none, that we are there."""
    piece = b"" if batch else _HEARTBEAT
    for event in batch:
        piece += format_sse_event(data_str=event.to_json(), event=event.event_type.value, id=str(event.seq))
        if len(piece) >= PIECE_BYTES:
            yield piece
            piece = b""
    if piece:
        yield piece
