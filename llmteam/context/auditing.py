"""Telling the audit trail who looked at what, before they see it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, Unpack

from llmteam.audit.models import AuditEventType, AuditSeverity
from llmteam.audit.trail import AuditFields
from llmteam.context.exceptions import ContextAccessError

_log = logging.getLogger(__name__)


class AccessTrail(Protocol):
    """What is told of accesses, like an :class:`~llmteam.audit.AuditTrail`."""

    def log_sync(self, event_type: AuditEventType, **fields: Unpack[AuditFields]) -> object:
        """Write an event down before returning."""
        ...


class _Current:
    """Where the trail is found that the running code has."""

    def __init__(self) -> None:
        self.lookup: Callable[[], AccessTrail | None] = lambda: None
        self.warned = False


_current = _Current()


def use_current_trail(lookup: Callable[[], AccessTrail | None]) -> None:
    """Have contexts without a trail of their own use the one that ``lookup`` finds."""
    _current.lookup = lookup


def find_trail(own: AccessTrail | None, *, wanted: bool, required: bool, viewer_id: str) -> AccessTrail | None:
    """The trail to tell: the context's own, else the running code's.

    Where there is none, it raises :class:`ContextAccessError` if one is ``required``, and else warns once in a process
    if one is ``wanted``.
    """
    trail = own or _current.lookup()
    if trail is None and required:
        raise ContextAccessError("this access has to be audited and there is no audit trail: give one", viewer_id)
    if trail is None and wanted and not _current.warned:
        _current.warned = True
        _log.warning("accesses to contexts should be audited, but there is no audit trail: give one as audit_trail")
    return trail


def tell(
    trail: AccessTrail,
    event_type: AuditEventType,
    *,
    viewer_id: str,
    viewer_role: str,
    resource_type: str,
    resource_id: str,
    run_id: str = "",
    reason: str = "",
) -> None:
    """Write an access down, or with a ``reason`` its refusal. Raises what the trail raises; then nothing is given."""
    trail.log_sync(
        event_type,
        severity=AuditSeverity.WARNING if reason else AuditSeverity.INFO,
        actor_id=viewer_id,
        actor_type=viewer_role,
        action="access",
        resource_type=resource_type,
        resource_id=resource_id,
        run_id=run_id,
        success=not reason,
        error_message=reason,
    )
