"""Snapshots as documents that are kept: sealed, signed, limited in size, and read whatever version wrote them. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from llmteam import codec
from llmteam.crypto import is_signed, sign
from llmteam.persistence.exceptions import SnapshotFormatError, SnapshotIntegrityError, SnapshotTooLargeError
from llmteam.persistence.models import CHECKSUM_VERSION, SNAPSHOT_VERSION, PipelineSnapshot
from llmteam.persistence.values import encode

__all__ = ["MAX_BYTES", "check_signature", "packed", "read", "read_text", "sealed", "unpacked", "written"]

#: Bytes of JSON that a snapshot may have, unless its store says otherwise.
MAX_BYTES = 16 * 1024 * 1024

#: Bytes of text from which on compressing is worth it.
PACK_FROM = 1024

_PURPOSE = "snapshot"
#: What the first byte of a packed text says about the others.
_PLAIN, _DEFLATED = b"j", b"z"


def sealed(snapshot: PipelineSnapshot, key: bytes | None = None) -> PipelineSnapshot:
    """A copy with the checksum of all that it holds and, with a ``key``, its signature.

    Raises :class:`SnapshotSerializationError`.
    """
    fresh = replace(deepcopy(snapshot), checksum_version=CHECKSUM_VERSION, signature="")
    fresh.checksum = fresh.compute_checksum()
    if key is not None:
        fresh.signature = sign(key, _PURPOSE, fresh.checksum.encode())
    return fresh


def check_signature(snapshot: PipelineSnapshot, key: bytes | None) -> None:
    """Raise :class:`SnapshotIntegrityError` unless the snapshot is signed with its tenant's ``key``, if it has one."""
    if key is None:
        return
    if not snapshot.signature or snapshot.checksum_version != CHECKSUM_VERSION:
        raise SnapshotIntegrityError(snapshot.snapshot_id, "it has no signature, which those of its tenant have")
    if not is_signed([key], _PURPOSE, snapshot.checksum.encode(), snapshot.signature):
        raise SnapshotIntegrityError(snapshot.snapshot_id, "its signature is not that of its tenant's key")


def written(snapshot: PipelineSnapshot, max_bytes: int = MAX_BYTES) -> str:
    """The text that is kept.

    Raises :class:`SnapshotIntegrityError` when it was changed since it was sealed, :class:`SnapshotTooLargeError`,
    :class:`SnapshotSerializationError`.
    """
    document = snapshot.to_dict()
    if snapshot.checksum != snapshot.checksum_of(document):
        raise SnapshotIntegrityError(snapshot.snapshot_id)
    text = codec.dumps(document)
    size = len(text.encode())
    if size > max_bytes:
        raise SnapshotTooLargeError(snapshot.snapshot_id, size, max_bytes)
    return text


def packed(text: str) -> bytes:
    """A text as it is kept where nothing else compresses it: short ones as they are, others by zlib (RFC 1950)."""
    data = text.encode()
    return _PLAIN + data if len(data) < PACK_FROM else _DEFLATED + zlib.compress(data)


def unpacked(data: bytes, max_bytes: int = MAX_BYTES) -> str:
    """The opposite of :func:`packed`; never holds more than ``max_bytes``, whatever ``data`` would grow to.

    Raises :class:`SnapshotFormatError`, :class:`SnapshotTooLargeError`.
    """
    mark, body = data[:1], data[1:]
    whole = mark == _PLAIN
    try:
        if mark == _DEFLATED:
            unpacking = zlib.decompressobj()
            body = unpacking.decompress(body, max_bytes + 1)
            whole = unpacking.eof
        if len(body) > max_bytes:
            raise SnapshotTooLargeError("", len(body), max_bytes)
        if whole:
            return body.decode()
    except (zlib.error, UnicodeDecodeError):
        pass  # said below
    raise SnapshotFormatError("", "what was kept of it is damaged")


def read_text(text: str, snapshot_id: str = "") -> PipelineSnapshot:
    """As :func:`read`, of the text that :func:`written` gave."""
    try:
        document = codec.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SnapshotFormatError(snapshot_id, "it is no JSON object")
    return read(document)


def read(document: Mapping[str, Any]) -> PipelineSnapshot:
    """The snapshot of a kept document, of this version's format or of an older one's.

    Raises :class:`SnapshotFormatError`, :class:`SnapshotIntegrityError`.
    """
    snapshot = PipelineSnapshot.from_dict(_upgraded(document))
    if not snapshot.verify():
        raise SnapshotIntegrityError(snapshot.snapshot_id)
    return snapshot


def _upgraded(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """``document`` in the format that is written today."""
    name = str(document.get("snapshot_id", ""))
    version = str(document.get("snapshot_version", ""))
    if _number(version) is None or document.get("checksum_version", CHECKSUM_VERSION) not in (1, CHECKSUM_VERSION):
        raise SnapshotFormatError(name, f"its format '{version[:20]}' is none")
    if (_number(version) or ()) > (_number(SNAPSHOT_VERSION) or ()):
        raise SnapshotFormatError(
            name, f"its format {version[:20]} is newer than {SNAPSHOT_VERSION}: read it with the llmteam that wrote it"
        )
    if "segment_id" in document:
        return _of_a_bare_segment(document)
    if "checksum_version" not in document:
        return {**document, "checksum_version": 1}
    return document


def _number(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(part.isascii() and part.isdigit() for part in parts) else None


def _of_a_bare_segment(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A pause as it was kept by itself, before all snapshots were kept alike; its own checksum is verified first."""
    name = str(document["snapshot_id"])
    content = {key: value for key, value in document.items() if key != "checksum"}
    if codec.digest(codec.canonical(content)) != document.get("checksum"):
        raise SnapshotIntegrityError(name)
    snapshot = PipelineSnapshot.from_dict(
        {
            "snapshot_id": name,
            "snapshot_type": "pause",
            "pipeline_id": document["segment_id"],
            "run_id": document["run_id"],
            "tenant_id": document["tenant_id"],
            "pipeline_version": document.get("definition_hash", ""),
            "phase": "paused",
            "global_state": encode({"segment": dict(document)}),
            "completed_steps": list(document.get("completed_steps", ())),
            "current_step": document.get("current_step") or "",
            "created_at": document["created_at"],
            "started_at": document.get("original_started_at"),
            "paused_at": document["created_at"],
        }
    )
    return sealed(snapshot).to_dict()
