"""Signed checkpoints: what a chain was at a moment, kept where whoever can write to the database cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.audit import canonical
from llmteam.audit.chain import ChainPoint
from llmteam.audit.exceptions import AuditError, AuditIntegrityError
from llmteam.crypto import SigningKey, VerifyKey

KIND = "llmteam.audit.checkpoint"
#: Of the checkpoint up to which retention removed records. Another kind, and signed with it: whoever has a checkpoint
#: of the first kind must not be able to pass it off as leave to remove.
BASE = "llmteam.audit.base"


@dataclass(frozen=True, slots=True)
class AuditCheckpoint:
    """A place in a tenant's chain, and the Ed25519 signature of whoever found the chain whole up to there.

    One that ``removes`` says besides that the records up to there were removed on purpose.
    """

    tenant_id: str
    sequence_number: int
    checksum: str
    issued_at: datetime
    key_id: str = ""
    signature: str = ""
    removes: bool = False

    @property
    def point(self) -> ChainPoint:
        """The place."""
        return ChainPoint(self.sequence_number, self.checksum)

    def signed(self, key: SigningKey) -> AuditCheckpoint:
        """This checkpoint with ``key``'s signature."""
        named = replace(self, key_id=key.verify_key.key_id)
        return replace(named, signature=key.sign(named._message()))

    def is_signed_by(self, key: VerifyKey) -> bool:
        """Whether the signature is ``key``'s for exactly this."""
        return self.key_id == key.key_id and key.is_signature(self.signature, self._message())

    def _message(self) -> str:
        return codec.canonical({name: value for name, value in self.to_dict().items() if name != "signature"})

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON, with what kind of document it is."""
        document = {**asdict(self), "issued_at": canonical.moment(self.issued_at)}
        kind = BASE if document.pop("removes") else KIND
        return {"kind": kind, "version": 1, **document}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AuditCheckpoint:
        """The checkpoint of :meth:`to_dict`. Raises :class:`AuditError`."""
        try:
            if data["kind"] not in {KIND, BASE} or data["version"] != 1:
                raise ValueError
            return cls(
                tenant_id=str(data["tenant_id"]),
                sequence_number=int(data["sequence_number"]),
                checksum=str(data["checksum"]),
                issued_at=datetime.fromisoformat(data["issued_at"]),
                key_id=str(data["key_id"]),
                signature=str(data["signature"]),
                removes=data["kind"] == BASE,
            )
        except (KeyError, TypeError, ValueError):
            raise AuditError(f"this is no checkpoint of version 1: the kind of one is {KIND}") from None


def trusted_points(
    tenant_id: str, checkpoints: Iterable[AuditCheckpoint], key: VerifyKey | None = None
) -> list[ChainPoint]:
    """The places that ``checkpoints`` vouch for.

    Raises :class:`AuditIntegrityError` for one of another tenant or, with ``key``, one that it has not signed.
    """
    points = []
    for checkpoint in checkpoints:
        named = f"the checkpoint of record {checkpoint.sequence_number}"
        if checkpoint.tenant_id != tenant_id:
            raise AuditIntegrityError(f"{named} is tenant '{checkpoint.tenant_id}''s, not '{tenant_id}''s")
        if key is not None and not checkpoint.is_signed_by(key):
            raise AuditIntegrityError(
                f"{named} is not signed with the key {key.key_id}: it was forged, or take another"
            )
        points.append(checkpoint.point)
    return points
