"""Telling people at once, for stores that keep no notifications: nothing is tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime

from llmteam.human import rules
from llmteam.human.models import NotificationConfig, NotificationKind
from llmteam.human.notifications import BuiltinChannel, Message, NotificationChannel
from llmteam.human.notifications.configured import channels_of_config
from llmteam.human.rulings import Ruling
from llmteam.human.stores import InteractionStore
from llmteam.settings import Settings

logger = logging.getLogger(__name__)


def channels_of(config: NotificationConfig) -> dict[str, NotificationChannel]:
    """By name, the channels that ``config`` asks for; mail goes through the server of LLMTEAM_SMTP_URL.

    Raises :class:`ConfigurationError`.
    """
    return dict(channels_of_config(config, Settings.load().smtp_url if config.email_enabled else None))


async def tell(
    store: InteractionStore, channels: Mapping[str, NotificationChannel], ruling: Ruling, now: datetime
) -> None:
    """Hand the notices of a change to every channel; the first that takes the request itself makes it NOTIFIED.

    A channel that fails is logged, and keeps neither the others nor the caller from going on.
    """
    request = ruling.request
    for notice in ruling.notices:
        message = Message(request, notice.recipients, notice.kind)
        taken = await asyncio.gather(*(_send(name, channel, message) for name, channel in channels.items()))
        if notice.kind is NotificationKind.REQUESTED and any(taken):
            await store.call(
                store.core.apply, request.tenant_id, request.request_id, lambda case: rules.notified(case, now)
            )


async def _send(name: str, channel: NotificationChannel, message: Message) -> bool:
    try:
        if isinstance(channel, BuiltinChannel):
            return await channel.send_message(message)
        return await channel.send(message.request, list(message.recipients)) is True
    except Exception as exc:  # noqa: BLE001  # a channel may be anybody's
        request_id = message.request.request_id
        logger.warning("request %s: the channel '%s' failed: %s", request_id, name, type(exc).__name__)
        return False
