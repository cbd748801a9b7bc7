"""Retention: the oldest records go once they were kept long enough, and a signed checkpoint of the last one stays.

A removal is cut off between days and between records, never out of the middle: what stays is a chain that begins at
the checkpoint. The checkpoint and the record that tells of it are kept first, in one transaction; then the records are
removed in batches. Whoever finds them half removed goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from llmteam.audit.chain import ChainChecker, ChainPoint, UnreadableRecord, raise_on_faults
from llmteam.audit.checkpoints import AuditCheckpoint
from llmteam.audit.face import AuditStoreFace, base_faults
from llmteam.audit.models import AuditDraft, AuditEventType
from llmteam.crypto import SigningKey, SigningKeyError, VerifyKey
from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.ids import Clock, utc_now

if TYPE_CHECKING:
    from llmteam.audit.postgres import PostgresAuditStore

logger = logging.getLogger(__name__)

#: Records that one checkpoint lets go at most.
STEP = 10_000
#: Records that are removed in one transaction.
BATCH = 1_000
#: Tenants that one sweep looks at, and records from which on it goes to no other one.
TENANTS, MOST = 1_000, 50_000


@dataclass(frozen=True)
class AuditKeys:
    """The key that signs checkpoints of removals, and all that are trusted to have signed one."""

    signing: SigningKey
    older: tuple[VerifyKey, ...] = field(default=())

    @property
    def trusted(self) -> tuple[VerifyKey, ...]:
        """Every key whose signature counts."""
        return (self.signing.verify_key, *self.older)


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed, or would be: so many records, up to the one of this number (0 when there was nothing)."""

    tenant_id: str
    removed: int
    up_to: int


def load_keys(paths: Sequence[Path]) -> AuditKeys | None:
    """The keys of PEM files, None without any: the first is private and signs, the others are private or public.

    Raises :class:`ConfigurationError`, which names the file.
    """
    if not paths:
        return None
    first, *others = paths
    with _named(first):
        signing = SigningKey.from_pem(_read(first))
    return AuditKeys(signing, tuple(map(_verify_key, others)))


def trusted_keys(paths: Sequence[Path]) -> tuple[VerifyKey, ...]:
    """The public halves of all keys of PEM files, private or public ones. Raises :class:`ConfigurationError`."""
    return tuple(map(_verify_key, paths))


def _verify_key(path: Path) -> VerifyKey:
    pem = _read(path)
    with _named(path):
        return SigningKey.from_pem(pem).verify_key if b"PRIVATE KEY" in pem else VerifyKey.from_pem(pem)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except SigningKeyError as exc:
        raise SigningKeyError(f"the audit key {path}: {exc}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise ConfigurationError(f"the audit key {path} cannot be read: {reason}. Correct LLMTEAM_AUDIT_KEYS") from None


def kept_since(now: datetime, days: float) -> datetime:
    """The beginning of the UTC day from which on records are kept; what is older has been kept for ``days``."""
    return (now - timedelta(days=days)).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def removable(
    store: AuditStoreFace, tenant_id: str, before: datetime, keys: AuditKeys, limit: int = STEP
) -> list[ChainPoint]:
    """The places of the tenant's oldest records, at most ``limit``, that are older than ``before``.

    They end before the first one that is not: a record that says that it is from the future keeps those behind it.
    What goes, and its link to what stays, was checked. Raises :class:`AuditIntegrityError`: evidence of tampering is
    not removed.
    """
    ends = store.ends(tenant_id)
    base, head = ends.base.sequence_number, ends.head.sequence_number
    last = min(base + limit + 1, head)
    checker = ChainChecker(tenant_id, first=base + 1, after=ends.base, vouched=[ends.head], end=head)
    for fault in base_faults(ends, keys.trusted, [ends.head]):
        checker.report(fault)
    found: list[ChainPoint] = []
    for record in chain.from_iterable(store.pages(tenant_id, base + 1, last)):
        checker.feed([record])
        is_older = isinstance(record, UnreadableRecord) or record.timestamp < before
        if not is_older or len(found) == limit:
            break
        found.append(ChainPoint(record.sequence_number, record.checksum))
    else:
        checker.finish(last)
    if not checker.so_far().valid and store.ends(tenant_id).base != ends.base:
        # Somebody else is removing them.
        return []
    raise_on_faults(tenant_id, checker.so_far())
    return found


def prune(
    store: AuditStoreFace,
    tenant_id: str,
    *,
    before: datetime,
    keys: AuditKeys,
    now: datetime,
    limit: int = STEP,
    actor_id: str = "",
) -> Removal:
    """Remove the tenant's oldest records that are older than ``before``, at most ``limit`` of them.

    What an earlier call left half removed goes first. Raises :class:`AuditIntegrityError` when what is to go does not
    hold, and :class:`AuditStorageError`.
    """
    removed = _remove_released(store, tenant_id)
    found = removable(store, tenant_id, before, keys, limit)
    if not found:
        return Removal(tenant_id, removed, 0)
    last = found[-1]
    checkpoint = AuditCheckpoint(tenant_id, last.sequence_number, last.checksum, now, removes=True)
    draft = AuditDraft(
        event_type=AuditEventType.DATA_DELETED,
        actor_type="user" if actor_id else "system",
        actor_id=actor_id,
        action="prune",
        resource_type="audit_log",
        resource_id=tenant_id,
        metadata={
            "first": found[0].sequence_number,
            "last": last.sequence_number,
            "last_checksum": last.checksum,
            "older_than": before,
            "signed_by": keys.signing.verify_key.key_id,
        },
    )
    store.release(checkpoint.signed(keys.signing), draft)
    return Removal(tenant_id, removed + _remove_released(store, tenant_id), last.sequence_number)


def _remove_released(store: AuditStoreFace, tenant_id: str) -> int:
    removed = 0
    while batch := store.remove_released(tenant_id, BATCH):
        removed += batch
    return removed


class Pruner:
    """Removes what was kept long enough, tenant by tenant; ``default_days`` holds for tenants without a record."""

    def __init__(
        self, store: PostgresAuditStore, keys: AuditKeys, default_days: float | None, clock: Clock = utc_now
    ) -> None:
        self._store = store
        self._keys = keys
        self._default_days = default_days
        self._clock = clock

    def sweep(self) -> int:
        """One step for each tenant that is due; how many records were removed. A chain that does not hold is kept."""
        removed, now = 0, self._clock()
        for one in self._store.due(self._default_days, now, TENANTS):
            if one.days is not None and removed < MOST:
                removed += self._pruned(one.tenant_id, kept_since(now, one.days), now)
        return removed

    def _pruned(self, tenant_id: str, before: datetime, now: datetime) -> int:
        try:
            return prune(self._store, tenant_id, before=before, keys=self._keys, now=now).removed
        except LLMTeamError as exc:
            logger.error("audit records of tenant %s are not removed (%s)", tenant_id, exc)
            return 0
