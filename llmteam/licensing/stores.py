"""Where licences of tenants are kept: the protocol of what blocks, and the store in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmteam.ids import Clock, utc_now
from llmteam.licensing.exceptions import LicenseConflictError
from llmteam.licensing.models import SEEN_EVERY, License, LicenseRecord
from llmteam.tenancy.admission import StartLimits, under_licence

if TYPE_CHECKING:
    from llmteam.licensing.postgres import PostgresLicenseStore

__all__ = ["LicenseStore", "MemoryLicenseStore", "PostgresLicenseStore", "licensed_starts"]

T = TypeVar("T")


def __getattr__(name: str) -> Any:
    """The store that needs a server's library loads on first use."""
    if name == "PostgresLicenseStore":
        from llmteam.licensing.postgres import PostgresLicenseStore

        return PostgresLicenseStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class LicenseStore(Protocol):
    """Licences of all tenants: at most one of a tenant at any time. Each method but ``call`` blocks."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of this store without blocking the loop."""
        ...

    def current(self, tenant_id: str) -> LicenseRecord | None:
        """The licence that the tenant has now, whatever it is worth; None when nobody gave it one."""
        ...

    def history(self, tenant_id: str) -> list[LicenseRecord]:
        """All that the tenant has and had, the newest first."""
        ...

    def put(
        self, tenant_id: str, license_: License | None, by: str, now: datetime, version: int | None = None
    ) -> LicenseRecord | None:
        """Replace the tenant's licence and return its record; with None, end the one that is there.

        ``version`` is that of the licence to be replaced, 0 for none; if it is not, :class:`LicenseConflictError`.
        """
        ...

    def see(self, tenant_id: str, now: datetime) -> None:
        """Remember that somebody looked at the tenant's licence."""
        ...

    def revoke(self, tenant_id: str, license_id: str, by: str, now: datetime) -> bool:
        """Let a licence be worth nothing for the tenant, whether it has it yet or not; False when that was so."""
        ...

    def is_revoked(self, tenant_id: str, license_id: str) -> bool:
        """Whether a licence was revoked for the tenant."""
        ...

    def reserve(
        self, tenant_id: str, limit: str, owner: str, expires_at: datetime, most: int | None, now: datetime
    ) -> int | None:
        """Take a place under a limit until ``expires_at``, or prolong that of ``owner``; None when it was taken.

        Else how many are taken: places that others reserved, and for ``concurrent_pipelines`` the open runs too.
        """
        ...

    def release(self, tenant_id: str, limit: str, owner: str) -> bool:
        """Give a place back; False when there is none."""
        ...


def licensed_starts(
    limits_of: Callable[[str], StartLimits | None], store: MemoryLicenseStore, clock: Clock = utc_now
) -> Callable[[str], StartLimits]:
    """What holds for starts, for a run store in memory: ``limits_of`` with licences and reserved places beside it."""

    def of(tenant_id: str) -> StartLimits:
        now, record = clock(), store.current(tenant_id)
        licence = None if record is None else record.standing(now).starts
        if record is not None and now - record.seen_at > SEEN_EVERY:
            store.see(tenant_id, now)
        reserved = store.reserved(tenant_id, "concurrent_pipelines", now)
        return under_licence(limits_of(tenant_id) or StartLimits(), licence, reserved)

    return of


class MemoryLicenseStore:
    """Licences in dictionaries, for use inside one process and for tests.

    ``open_runs`` counts a tenant's runs that have a place among the concurrent ones.
    """

    def __init__(self, open_runs: Callable[[str], int] = lambda tenant_id: 0) -> None:
        self._open_runs = open_runs
        self._lock = threading.RLock()
        self._records: dict[str, list[LicenseRecord]] = {}
        self._revoked: set[tuple[str, str]] = set()
        self._reserved: dict[tuple[str, str], dict[str, datetime]] = {}

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call it: nothing here waits."""
        return function(*args)

    def current(self, tenant_id: str) -> LicenseRecord | None:
        """As :meth:`LicenseStore.current`."""
        return next((one for one in self.history(tenant_id)[:1] if one.valid_to is None), None)

    def history(self, tenant_id: str) -> list[LicenseRecord]:
        """As :meth:`LicenseStore.history`."""
        with self._lock:
            kept = self._records.get(tenant_id, [])
            return [self._shown(record) for record in reversed(kept)]

    def _shown(self, record: LicenseRecord) -> LicenseRecord:
        revoked = (record.tenant_id, record.license.license_id) in self._revoked
        return replace(record, license=License.of_document(record.license.document()), revoked=revoked)

    def put(
        self, tenant_id: str, license_: License | None, by: str, now: datetime, version: int | None = None
    ) -> LicenseRecord | None:
        """As :meth:`LicenseStore.put`."""
        with self._lock:
            kept, held = self._records.setdefault(tenant_id, []), self.current(tenant_id)
            if version is not None and version != (0 if held is None else held.version):
                raise LicenseConflictError(tenant_id, version)
            last = kept[-1] if kept else None
            moment = now if last is None else max(now, last.valid_to or last.valid_from)
            if held is not None:
                kept[-1] = replace(kept[-1], valid_to=moment)
            if license_ is None:
                return None
            seen = max([now, *(one.seen_at for one in kept[-1:])])
            copy = License.of_document(license_.document())
            kept.append(LicenseRecord(tenant_id, len(kept) + 1, copy, moment, by, seen))
            return self.current(tenant_id)

    def see(self, tenant_id: str, now: datetime) -> None:
        """As :meth:`LicenseStore.see`."""
        with self._lock:
            kept = self._records.get(tenant_id, [])
            if kept and kept[-1].valid_to is None:
                kept[-1] = replace(kept[-1], seen_at=max(now, kept[-1].seen_at))

    def revoke(self, tenant_id: str, license_id: str, by: str, now: datetime) -> bool:
        """As :meth:`LicenseStore.revoke`."""
        with self._lock:
            known = (tenant_id, license_id) in self._revoked
            self._revoked.add((tenant_id, license_id))
            return not known

    def is_revoked(self, tenant_id: str, license_id: str) -> bool:
        """As :meth:`LicenseStore.is_revoked`."""
        return (tenant_id, license_id) in self._revoked

    def reserve(
        self, tenant_id: str, limit: str, owner: str, expires_at: datetime, most: int | None, now: datetime
    ) -> int | None:
        """As :meth:`LicenseStore.reserve`."""
        with self._lock:
            held = self._reserved.setdefault((tenant_id, limit), {})
            for gone in [one for one, until in held.items() if until <= now]:
                del held[gone]
            taken = len(held) - (owner in held)
            if limit == "concurrent_pipelines":
                taken += self._open_runs(tenant_id)
            if most is not None and taken >= most:
                return taken
            held[owner] = expires_at
            return None

    def release(self, tenant_id: str, limit: str, owner: str) -> bool:
        """As :meth:`LicenseStore.release`."""
        with self._lock:
            return self._reserved.get((tenant_id, limit), {}).pop(owner, None) is not None

    def reserved(self, tenant_id: str, limit: str, now: datetime) -> int:
        """Places that are reserved under a limit."""
        with self._lock:
            return sum(until > now for until in self._reserved.get((tenant_id, limit), {}).values())
