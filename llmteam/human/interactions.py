"""Where requests live: the protocol of the synchronous core that engine, sweeps, inbox and managers share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from llmteam.human.models import InteractionMessage, InteractionRequest, InteractionResponse
from llmteam.human.rulings import Case, Rule, Ruling
from llmteam.wakeup import PREFIX, Wakeup

#: Open requests that one listing gives at most.
LISTED = 200


def request_channel(tenant_id: str, request_id: str) -> str:
    """The name under which changes of this request are published: a hint to look again."""
    return f"{PREFIX}{tenant_id}:request:{request_id}"


@dataclass(frozen=True, slots=True)
class DueRequest:
    """A request that a sweep found: something about it is due."""

    tenant_id: str
    request_id: str


class Interactions(Protocol):
    """Requests with their answers. Synchronous; each method is one transaction, seen by one tenant only.

    ``apply`` is the only way in which a request changes. After its commit it wakes whoever waits for the request or
    follows its run, and hints at the step that goes on.
    """

    @property
    def wakeup(self) -> Wakeup:
        """Where changes are published, and waiters watch."""
        ...

    @property
    def keeps_notifications(self) -> bool:
        """Whether notices are kept with the change, to be delivered by a sweep."""
        ...

    @property
    def keeps_audit(self) -> bool:
        """Whether the audit trail is written with the change."""
        ...

    def create(self, ruling: Ruling) -> InteractionRequest:
        """Write a new request; of one that a step asks twice in one visit, the one that is there."""
        ...

    def apply(self, tenant_id: str, request_id: str, rule: Rule) -> Ruling | None:
        """Lock the request, let ``rule`` decide, write what it gives; None when it changes nothing.

        Raises :class:`InteractionNotFoundError`, and whatever the rule raises; then nothing has changed. Raises
        :class:`AnswerLinkError` when the ruling uses a link that was used before.
        """
        ...

    def drain(self) -> Sequence[Ruling]:
        """What has happened since the last call and is for managers to tell and to record; nothing where that is
        kept with the change.
        """
        ...

    def case(self, tenant_id: str, request_id: str) -> Case | None: ...

    def case_of_step(self, tenant_id: str, run_id: str, step_id: str, visit: int) -> Case | None:
        """What the step of a run asked in this visit."""
        ...

    def open_requests(
        self, tenant_id: str, *, person: str | None = None, groups: Collection[str] = (), limit: int = LISTED
    ) -> list[InteractionRequest]:
        """Open ones, oldest deadline first; with ``person`` those that they (or their groups) are asked, or that ask
        nobody in particular.
        """
        ...

    def of_run(self, tenant_id: str, run_id: str) -> list[InteractionRequest]:
        """All requests of a run, oldest first; none for those that belong to no run."""
        ...

    def messages(self, tenant_id: str, request_id: str, after: int = 0) -> list[InteractionMessage]:
        """Messages of a chat with a greater number, in order."""
        ...

    def replace(self, request: InteractionRequest) -> None:
        """Write a request that is there as it is given, past all rules; where it belongs (run, step, visit) stays.

        Raises :class:`InteractionNotFoundError`.
        """
        ...

    def put_response(self, tenant_id: str, response: InteractionResponse) -> None:
        """Write a final answer as it is given, past all rules. The first one stays.

        Raises :class:`InteractionNotFoundError`.
        """
        ...

    def take_due(self, limit: int) -> Sequence[DueRequest]:
        """Open requests of all tenants about which something is due, their next look pushed out."""
        ...

    def purge(self, older_than: timedelta, limit: int) -> int:
        """Delete requests that were closed so long ago, with all that is theirs, and links that have expired; how many
        requests. One whose run goes on is kept.
        """
        ...
