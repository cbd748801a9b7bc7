"""What a notification says, whatever the channel. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmteam.errors import ConfigurationError
from llmteam.human.models import InteractionRequest, InteractionType, NotificationKind

#: Characters of a description that chats and mails show; the whole of it stands in the inbox.
SHOWN = 3000

_ASKED = {
    InteractionType.APPROVAL: "Your approval is needed",
    InteractionType.CHOICE: "Your choice is needed",
    InteractionType.INPUT: "Your input is needed",
    InteractionType.REVIEW: "Your review is needed",
    InteractionType.CHAT: "Somebody wants to talk to you",
    InteractionType.TASK: "A task for you",
}
_HAPPENED = {
    NotificationKind.ASSIGNED: "Given to you",
    NotificationKind.REMINDER: "Reminder",
    NotificationKind.ESCALATED: "Escalated to you",
    NotificationKind.SLA_WARNING: "Time is getting short",
    NotificationKind.SLA_BREACH: "Overdue",
    NotificationKind.CHANGED: "Changed since you were asked",
    NotificationKind.TIMED_OUT: "Closed, since nobody answered in time",
}
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Message:
    """One notification as a channel gets it.

    ``notification_id`` is the same however often it is delivered. ``answer_links`` has, by person, a link that lets
    whoever holds it answer as that person: only channels that reach this person alone, or a program, may pass it on.
    ``inbox_url`` is the request's page, which asks who is there.
    """

    request: InteractionRequest
    recipients: tuple[str, ...] = ()
    kind: NotificationKind = NotificationKind.REQUESTED
    notification_id: str = ""
    answer_links: Mapping[str, str] = field(default_factory=dict, repr=False)
    inbox_url: str = ""

    @property
    def heading(self) -> str:
        """Why they are told, in a few words."""
        return _HAPPENED.get(self.kind) or _ASKED[self.request.interaction_type]

    @property
    def subject(self) -> str:
        """Heading and title in one line."""
        return one_line(f"{self.heading}: {self.request.title}")

    @property
    def deadline(self) -> str:
        """Until when, in ISO 8601; empty for ever."""
        return "" if self.request.deadline is None else self.request.deadline.isoformat()

    def link_for(self, person: str) -> str:
        """Where this person answers: by their own link, else in the inbox; empty when there is neither."""
        return self.answer_links.get(person) or self.inbox_url

    def fields(self, respond_url: str) -> dict[str, str]:
        """What a template may name."""
        request = self.request
        return {
            "heading": self.heading,
            "kind": self.kind.value,
            "title": request.title,
            "description": shortened(request.description),
            "type": request.interaction_type.value,
            "priority": request.priority.value,
            "deadline": self.deadline,
            "assignee": request.assignee_id or "",
            "request_id": request.request_id,
            "run_id": request.run_id,
            "pipeline_id": request.pipeline_id,
            "tenant_id": request.tenant_id,
            "respond_url": respond_url,
        }


_FIELDS = (
    *("heading", "kind", "title", "description", "type", "priority", "deadline", "assignee"),
    *("request_id", "run_id", "pipeline_id", "tenant_id", "respond_url"),
)


class Template:
    """A text with ``{title}``, ``{respond_url}`` and the like in it. Everything else in braces stays as it is.

    Raises :class:`ConfigurationError` for a name that there is not.
    """

    def __init__(self, text: str) -> None:
        for name in _PLACEHOLDER.findall(text):
            if name not in _FIELDS:
                raise ConfigurationError(f"a template names {{{name}}}; it may name {', '.join(_FIELDS)}")
        self._text = text

    def __bool__(self) -> bool:
        return bool(self._text)

    def fill(self, fields: Mapping[str, str]) -> str:
        """The text with what ``fields`` say; a value is never read as a template."""
        return _PLACEHOLDER.sub(lambda found: fields[found[1]], self._text)


def shortened(text: str, most: int = SHOWN) -> str:
    """``text`` with at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def one_line(text: str, most: int = 200) -> str:
    """``text`` without breaks and other characters that do not show."""
    return shortened(" ".join("".join(c if c.isprintable() else " " for c in text).split()), most)
