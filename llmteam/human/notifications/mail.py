"""E-mail: one message for each recipient, so that nobody sees another's link."""

from __future__ import annotations

import html
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid
from typing import TYPE_CHECKING

from llmteam.human.notifications.channels import BuiltinChannel
from llmteam.human.notifications.messages import Message, Template, shortened
from llmteam.ids import Clock, utc_now
from llmteam.net.mail_address import looks_like_address

if TYPE_CHECKING:
    from llmteam.net.guard import OutboundGuard

_TEXT = Template("{heading}: {title}\n\n{description}\n\nPriority: {priority}\nDeadline: {deadline}\n\n{respond_url}\n")


class EmailNotificationChannel(BuiltinChannel):
    """Sends notifications as e-mail to recipients whose id is an address.

    ``smtp_url`` is ``smtp://user:password@host:587?from=inbox@example.com&starttls=1`` or ``smtps://…``; its host and
    port are trusted, on a private network too. ``template`` replaces the text. Raises :class:`ConfigurationError` for
    another URL.
    """

    def __init__(
        self, smtp_url: str, *, template: str = "", guard: OutboundGuard | None = None, clock: Clock = utc_now
    ) -> None:
        from llmteam.net import MailClient, MailServer

        self._client = MailClient(MailServer.parse(smtp_url), guard=guard)
        self._template = Template(template) if template else None
        self._clock = clock

    def targets(self, recipients: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Each address for itself; recipients that are no address are left out."""
        return [(one,) for one in recipients if looks_like_address(one)]

    def deliver(self, message: Message) -> None:
        """As :meth:`BuiltinChannel.deliver`; one after the other."""
        for (recipient,) in self.targets(message.recipients):
            made = mail_of(message, recipient, self._client.server.sender, self._template)
            made["Date"] = format_datetime(self._clock())
            self._client.send(made, recipient)


def mail_of(message: Message, recipient: str, sender: str, template: Template | None = None) -> EmailMessage:
    """The mail to one recipient, text and HTML. Nothing in a request can add a header or markup."""
    made = EmailMessage(policy=SMTP)
    made["From"], made["To"], made["Subject"] = sender, recipient, message.subject
    # The same for every attempt, so that mail programs can drop a second copy.
    domain, known = sender.rpartition("@")[2], message.notification_id
    made["Message-ID"] = f"<{known}@{domain}>" if known else make_msgid(domain=domain)
    made["Auto-Submitted"] = "auto-generated"
    link = message.link_for(recipient)
    made.set_content((template or _TEXT).fill(message.fields(link)))
    if template is None:
        made.add_alternative(_html(message, link), subtype="html")
    return made


def _html(message: Message, link: str) -> str:
    request, shown = message.request, html.escape
    facts = {"Priority": request.priority.value, "Deadline": message.deadline, "Pipeline": request.pipeline_id}
    rows = "".join(f"<tr><td>{name}</td><td>{shown(value)}</td></tr>" for name, value in facts.items() if value)
    lines = shown(shortened(request.description)).replace("\n", "<br>")
    button = f'<p><a href="{shown(link)}">Open the request</a></p>' if link else ""
    return (
        f"<!doctype html><html><body><p>{shown(message.heading)}</p><h1>{shown(request.title)}</h1><p>{lines}</p>"
        f"<table>{rows}</table>{button}</body></html>"
    )
