"""How a worker takes a hint: it is gone once it is delivered, so that there is nothing to acknowledge."""

from __future__ import annotations

from celery.worker.request import Request


class HintRequest(Request):  # type: ignore[misc]
    """A request from a ``no_ack`` queue; Celery would otherwise acknowledge it to the broker, at two round trips."""

    def acknowledge(self) -> None:
        """Mark it as taken."""
        self.acknowledged = True
