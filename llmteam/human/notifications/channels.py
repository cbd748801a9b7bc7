"""What a channel is, and what those that come with the package have in common."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from llmteam.errors import LLMTeamError
from llmteam.human.models import InteractionRequest
from llmteam.human.notifications.messages import Message

logger = logging.getLogger(__name__)

#: Seconds that a chat or a webhook has to answer.
POST_SECONDS = 10.0


class NotificationChannel(ABC):
    """A way to reach people."""

    @abstractmethod
    async def send(self, request: InteractionRequest, recipients: list[str]) -> bool:
        """Tell them about the request; whether the channel took it. Never raises for a failure to deliver."""


class BuiltinChannel(NotificationChannel):
    """A channel that also says why people are told, passes on links, and says what went wrong."""

    def targets(self, recipients: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Who is told by one delivery each; empty when the channel reaches none of them."""
        return [recipients]

    @abstractmethod
    def deliver(self, message: Message) -> None:
        """Hand the message on; returns when it was taken. Blocks for a bounded time.

        Raises a :class:`LLMTeamError` whose text may be shown and kept: no address, no secret, no payload.
        """

    async def send(self, request: InteractionRequest, recipients: list[str]) -> bool:
        """Tell them that they are asked; whether the channel took it."""
        return await self.send_message(Message(request, tuple(recipients)))

    async def send_message(self, message: Message) -> bool:
        """As :meth:`deliver`, without blocking the loop; a failure is logged. False too when it reaches nobody."""
        if not self.targets(message.recipients):
            return False
        try:
            await asyncio.to_thread(self.deliver, message)
        except LLMTeamError as exc:
            logger.warning("request %s: a notification was not taken: %s", message.request.request_id, exc)
            return False
        return True
