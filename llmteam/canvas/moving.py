"""Carrying a paused run to another installation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from llmteam.audit.models import AuditDraft, AuditEventType, AuditSeverity
from llmteam.audit.stores import AuditStoreFace
from llmteam.canvas.exceptions import RunNotFoundError, RunStateError
from llmteam.canvas.portable import Carried, Rows, carried, from_bytes, packed, to_bytes
from llmteam.errors import LLMTeamError
from llmteam.ids import Clock, utc_now
from llmteam.persistence.documents import read

__all__ = ["Carrying", "Moving"]


class Carrying(Protocol):
    """Where the rows of runs are."""

    def read(self, tenant_id: str, run_id: str) -> Rows: ...

    def write(self, tenant_id: str, run: Carried, told: AuditDraft, now: datetime) -> None: ...


class Moving:
    """Exports paused runs and imports those of other installations.

    Args:
        rows: where their rows are.
        audit: the trails that are told of each that leaves, comes or is refused.
        keys: secrets by tenant id: documents of these tenants are signed, and refused without the right signature.
    """

    def __init__(
        self, rows: Carrying, audit: AuditStoreFace, keys: Mapping[str, bytes] | None = None, *, clock: Clock = utc_now
    ) -> None:
        self._rows = rows
        self._audit = audit
        self._keys = dict(keys or {})
        self._clock = clock

    def export_run(self, tenant_id: str, run_id: str, *, by: str = "", compress: bool = True) -> bytes:
        """A paused run as bytes, to be imported elsewhere: JSON, by gzip or as it is. The run stays here, paused.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it is not paused.
            SnapshotNotPortableError: something of it is sealed with a key of this installation.
            SnapshotIntegrityError, SnapshotFormatError: the snapshot of its pause was damaged.
        """
        rows = self._rows.read(tenant_id, run_id)
        if not rows["runs"]:
            raise RunNotFoundError(run_id)
        status = rows["runs"][0]["status"]
        if status != "paused":
            raise RunStateError(run_id, f"is {status}: pause it, then its snapshot can be exported")
        if not rows["snapshots"]:
            raise RunStateError(run_id, "has lost the snapshot of its pause: resume it and pause it again")
        snapshot = packed(read(rows["snapshots"][0]["document"]), rows, self._keys.get(tenant_id))
        carried(snapshot, tenant_id)
        data = to_bytes(snapshot, compress=compress)
        self._audit.add(tenant_id, [_told(AuditEventType.DATA_EXPORTED, "export", snapshot.snapshot_id, run_id, by)])
        return data

    def import_run(self, tenant_id: str, data: bytes, *, by: str = "") -> str:
        """Write the run of another installation, paused as it was; its id. Nothing is written when it is refused.

        Raises:
            SnapshotIntegrityError: the document was changed, or is not signed as those of the tenant are.
            SnapshotFormatError: it is no exported run, or one of a newer version.
            SnapshotNotPortableError: it is another tenant's.
            AlreadyRunningError: the run is here already.
            TenantError: kinds of it, when the tenant may not have one more run.
        """
        try:
            run = carried(from_bytes(data, self._keys.get(tenant_id)), tenant_id)
            told = _told(AuditEventType.DATA_IMPORTED, "import", run.snapshot.snapshot_id, run.run_id, by)
            self._rows.write(tenant_id, run, told, self._clock())
        except LLMTeamError as exc:
            if exc.retryable is not True:
                self._audit.add(tenant_id, [_refused(exc, by)])
            raise
        return run.run_id


def _told(kind: AuditEventType, action: str, snapshot_id: str, run_id: str, by: str) -> AuditDraft:
    return AuditDraft(
        event_type=kind,
        actor_type="user" if by else "system",
        actor_id=by,
        action=action,
        resource_type="run_snapshot",
        resource_id=snapshot_id,
        run_id=run_id,
    )


def _refused(exc: LLMTeamError, by: str) -> AuditDraft:
    return AuditDraft(
        event_type=AuditEventType.DATA_IMPORTED,
        severity=AuditSeverity.ERROR,
        actor_type="user" if by else "system",
        actor_id=by,
        action="import",
        resource_type="run_snapshot",
        resource_id=str(getattr(exc, "snapshot_id", "")),
        success=False,
        error_message=str(exc),
    )
