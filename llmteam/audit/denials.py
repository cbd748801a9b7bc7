"""Refusals in the audit trail: each at once, but a flood of them as one record a minute and a number."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from llmteam.audit.models import AuditDraft, AuditEventType, AuditSeverity
from llmteam.errors import LLMTeamError

logger = logging.getLogger(__name__)

#: Seconds in which a refusal that is like another one is counted instead of written.
WINDOW_SECONDS = 60.0
#: Records that one process writes of one tenant's refusals in that time at most; further ones are counted.
MOST = 60
#: Tenants whose refusals are counted at once.
TENANTS_KEPT = 10_000

Add = Callable[[str, Sequence[AuditDraft]], object]


@dataclass(slots=True)
class _Window:
    """The refusals of one tenant since a moment: what was written, and how many were only counted, before it too."""

    since: float
    written: set[tuple[str, ...]] = field(default_factory=set)
    counted: int = 0


class Denials:
    """Writes down who was refused what; for many threads.

    Every append waits for the head of its tenant's chain, as the starts and ends of the tenant's runs do: written one
    by one, refusals of whoever asks without a pause would hold up what is allowed. So the first refusal of a person,
    action and reason in a minute is written before :meth:`note` returns, and those like it, or beyond :data:`MOST`,
    are counted; the next record that is written says how many in ``metadata.not_written_before``.

    ``add`` appends, like :meth:`AuditStoreFace.add`.
    """

    def __init__(self, add: Add, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._add = add
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def note(self, tenant_id: str, draft: AuditDraft) -> None:
        """Something was refused. Never raises: it stays refused, and what could not be written is counted."""
        counted = self._counted_before(tenant_id, draft)
        if counted is not None:
            self._write(tenant_id, draft, counted)

    def flush(self) -> None:
        """Write how many refusals were only counted, for each tenant with such."""
        with self._lock:
            left = {tenant_id: window.counted for tenant_id, window in self._windows.items() if window.counted}
            self._windows.clear()
        for tenant_id, counted in left.items():
            self._write(tenant_id, _remainder(), counted)

    def _counted_before(self, tenant_id: str, draft: AuditDraft) -> int | None:
        """How many were only counted before this one; None when it is one of those itself."""
        now = self._monotonic()
        like = (draft.event_type.value, draft.actor_id, draft.action, draft.error_message)
        with self._lock:
            window = self._windows.get(tenant_id)
            if window is None or now - window.since >= WINDOW_SECONDS:
                window = self._windows[tenant_id] = _Window(now, counted=0 if window is None else window.counted)
                self._windows.move_to_end(tenant_id)
                if len(self._windows) > TENANTS_KEPT:
                    self._windows.popitem(last=False)
            if like in window.written or len(window.written) >= MOST:
                window.counted += 1
                return None
            window.written.add(like)
            counted, window.counted = window.counted, 0
            return counted

    def _write(self, tenant_id: str, draft: AuditDraft, counted: int) -> None:
        if counted:
            draft = replace(draft, metadata={**draft.metadata, "not_written_before": counted})
        try:
            self._add(tenant_id, [draft])
        except LLMTeamError as exc:
            logger.warning("tenant %s: a refusal is not in the audit trail (%s); it is counted", tenant_id, exc)
            with self._lock:
                window = self._windows.setdefault(tenant_id, _Window(self._monotonic()))
                window.counted += counted + 1


def _remainder() -> AuditDraft:
    return AuditDraft(
        event_type=AuditEventType.ACCESS_DENIED,
        severity=AuditSeverity.WARNING,
        action="access_denied",
        success=False,
        error_message="refusals that were only counted",
    )
