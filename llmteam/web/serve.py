"""Serving the application until a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from llmteam.errors import ConfigurationError

#: Seconds that answers under way get at the end.
GRACE = 10


class _Server(uvicorn.Server):
    """Tells when it listens, and on which port; has answers end that would go on for ever when it is to stop."""

    def __init__(self, config: uvicorn.Config, when_ready: Callable[[int], None], leave: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_ready = when_ready
        self._leave = leave

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._when_ready(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: Any = None) -> None:
        self._leave()
        await super().shutdown(sockets)


def serve(app: FastAPI, host: str, port: int, when_ready: Callable[[int], None]) -> None:
    """Serve in this process until SIGINT or SIGTERM; ``when_ready`` gets the port that was taken (0 takes a free one).

    Requests are not logged: their paths may hold links that still work. Raises :class:`ConfigurationError` when it
    cannot listen there.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
        lifespan="off",
        ws="none",
    )
    # The server sends itself the signal again when it has ended, for whoever wants to die of it. We have more to close.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    try:
        _Server(config, when_ready, app.state.parts.leave).run()
    except SystemExit:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: it is taken, or no address of this machine; choose others with "
            "--host and --port"
        ) from None
