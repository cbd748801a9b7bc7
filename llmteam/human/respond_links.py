"""Where people answer: links in notifications, made when one is sent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from llmteam.human.links import AnswerLink, LinkSigner
from llmteam.human.models import InteractionRequest
from llmteam.human.rules import may_answer
from llmteam.ids import new_id
from llmteam.settings import Settings

#: No answer link works for longer, however late the deadline is.
LONGEST = timedelta(days=7)


class RespondLinks:
    """Makes links to the web inbox at ``public_url``; without it there are none, without a signer none that answer."""

    def __init__(self, public_url: str | None = None, signer: LinkSigner | None = None) -> None:
        self._base = None if public_url is None else public_url.rstrip("/")
        self._signer = signer

    @classmethod
    def of(cls, settings: Settings) -> RespondLinks:
        """As the settings say. Raises :class:`ConfigurationError` for keys that are too short."""
        return cls(settings.public_url, LinkSigner(settings.web_keys) if settings.web_keys else None)

    def inbox_url(self, request: InteractionRequest) -> str:
        """The request's page, for those who sign in; empty without an inbox."""
        return "" if self._base is None else f"{self._base}/requests/{request.request_id}"

    def answer_links(self, request: InteractionRequest, people: Iterable[str], now: datetime) -> dict[str, str]:
        """By person, a link with which they answer once what is shown now, until the deadline.

        Only those who may answer get one: no group, and with four eyes not whoever started the run.
        """
        if self._base is None or self._signer is None or not request.status.is_open:
            return {}
        ends = min(request.deadline or now + LONGEST, now + LONGEST)
        if ends <= now:
            return {}
        links = {}
        for person in people:
            if may_answer(request, person) is None:
                link = AnswerLink(request.tenant_id, request.request_id, person, request.shown_hash, new_id(), ends)
                links[person] = f"{self._base}/answer/{self._signer.sign_link(link)}"
        return links
