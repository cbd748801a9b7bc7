"""Telling people that they are asked: channels."""

from __future__ import annotations

from abc import ABC, abstractmethod

from llmteam.human.models import InteractionRequest


class NotificationChannel(ABC):
    """A way to reach people."""

    @abstractmethod
    async def send(self, request: InteractionRequest, recipients: list[str]) -> bool:
        """Tell them about the request; whether the channel took it. Never raises for a failure to deliver."""
