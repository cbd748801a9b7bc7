"""Paused runs as documents that leave their installation: the snapshot of the pause with the rows behind it. Pure.

The document is a :class:`PipelineSnapshot` like any other, sealed and perhaps signed; as bytes it is its JSON, as it
is or compressed with gzip. Its rows are checked before they are believed: they may have been made by anybody.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmteam import codec
from llmteam.canvas.exceptions import SnapshotNotPortableError
from llmteam.canvas.graph import Graph, compile_graph
from llmteam.canvas.models import SegmentDefinition, StepTypeFacts
from llmteam.canvas.records import PinnedDefinition
from llmteam.errors import LLMTeamError
from llmteam.persistence.documents import check_signature, read, sealed
from llmteam.persistence.exceptions import SnapshotFormatError, SnapshotIntegrityError, SnapshotTooLargeError
from llmteam.persistence.models import PipelineSnapshot

__all__ = ["TABLES", "Carried", "Rows", "carried", "from_bytes", "packed", "to_bytes"]

#: Rows of a run by table.
Rows = Mapping[str, Sequence[Mapping[str, Any]]]

#: Tables with rows of a run, in the order in which they are written.
TABLES = (
    "definitions",
    "runs",
    "run_steps",
    "payloads",
    "interactions",
    "interaction_responses",
    "interaction_messages",
    "agent_contexts",
    "action_attempts",
    "events",
    "snapshots",
)

#: What files of gzip begin with (RFC 1952).
_GZIP = b"\x1f\x8b"

#: Bytes of JSON that an exported run may have.
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Carried:
    """A run that was read from a document, and what its rows say about it."""

    run_id: str
    snapshot: PipelineSnapshot
    rows: Rows
    pinned: PinnedDefinition
    graph: Graph

    @property
    def agents(self) -> int:
        """How many of its steps ask a model."""
        return sum(step.step_type == "llm_agent" for step in self.pinned.definition.steps)


def packed(snapshot: PipelineSnapshot, rows: Rows, key: bytes | None = None) -> PipelineSnapshot:
    """The snapshot of a pause with the rows of its run, sealed anew.

    Raises :class:`SnapshotNotPortableError` when something of the run is sealed with a key of its installation.
    """
    sealing = [row["path"] for row in rows.get("agent_contexts", ()) if row["document"].get("sealed")]
    if sealing:
        raise SnapshotNotPortableError(
            snapshot.run_id, f"'{sealing[0]}' has sealed fields, whose key stays where it is"
        )
    return sealed(replace(snapshot, global_state={**snapshot.global_state, "rows": rows}), key)


def to_bytes(snapshot: PipelineSnapshot, *, compress: bool = True) -> bytes:
    """The document. Raises :class:`SnapshotTooLargeError`."""
    text = codec.dumps(snapshot.to_dict()).encode()
    if len(text) > MAX_BYTES:
        raise SnapshotTooLargeError(snapshot.snapshot_id, len(text), MAX_BYTES)
    return gzip.compress(text, mtime=0) if compress else text


def from_bytes(data: bytes, key: bytes | None = None, *, max_bytes: int = MAX_BYTES) -> PipelineSnapshot:
    """The document of :func:`to_bytes`, checked against its checksum and, with a ``key``, its signature.

    Never holds more than ``max_bytes`` of JSON, whatever ``data`` would grow to.

    Raises :class:`SnapshotFormatError`, :class:`SnapshotIntegrityError`, :class:`SnapshotTooLargeError`.
    """
    text, whole = data, True
    try:
        if data.startswith(_GZIP):
            unpacking = zlib.decompressobj(wbits=31)
            text = unpacking.decompress(data, max_bytes + 1)
            whole = unpacking.eof
        if len(text) > max_bytes:
            raise SnapshotTooLargeError("", len(text), max_bytes)
        document = codec.loads(text)
    except (zlib.error, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not whole:
        raise SnapshotFormatError("", "it is no whole file of `llmteam runs export-snapshot`")
    snapshot = read(document)
    check_signature(snapshot, key)
    return snapshot


def carried(snapshot: PipelineSnapshot, tenant_id: str) -> Carried:
    """The run of a document for ``tenant_id``.

    Raises :class:`SnapshotFormatError` when it holds no whole run, :class:`SnapshotIntegrityError` when a part of it
    is not what it is called, :class:`SnapshotNotPortableError` for another tenant's.
    """
    if snapshot.tenant_id != tenant_id:
        raise SnapshotNotPortableError(snapshot.run_id, "it is another tenant's")
    try:
        rows = {table: [dict(row) for row in snapshot.global_state["rows"][table]] for table in TABLES}
        (run,) = rows["runs"]
        (definition,) = rows["definitions"]
        paused_by = [run["snapshot_id"], *(row["snapshot_id"] for row in rows["snapshots"])]
        if run["status"] != "paused" or run["run_id"] != snapshot.run_id or {*paused_by} != {snapshot.snapshot_id}:
            raise SnapshotFormatError(snapshot.snapshot_id, "its run is not the paused one that it was taken of")
        pinned = _pinned(snapshot.snapshot_id, definition, run["definition_hash"])
        graph = compile_graph(pinned.definition, pinned.facts.get)
        _check_parts(snapshot, rows, graph)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SnapshotFormatError(snapshot.snapshot_id, "it holds no whole run") from None
    except (SnapshotFormatError, SnapshotIntegrityError):
        raise
    except LLMTeamError as exc:
        raise SnapshotFormatError(snapshot.snapshot_id, f"its segment cannot be used ({type(exc).__name__})") from None
    return Carried(snapshot.run_id, snapshot, rows, pinned, graph)


def _pinned(snapshot_id: str, row: Mapping[str, Any], wanted: str) -> PinnedDefinition:
    key = codec.digest(codec.canonical([row["document"], row["types"]]))
    if not key == wanted == row["definition_hash"]:
        raise SnapshotIntegrityError(snapshot_id, "its definition does not fit the digest under which it goes")
    facts = {type_id: StepTypeFacts(**value) for type_id, value in row["types"].items()}
    return PinnedDefinition(key, SegmentDefinition.from_dict(row["document"]), facts)


def _check_parts(snapshot: PipelineSnapshot, rows: Rows, graph: Graph) -> None:
    """What others would take for theirs has to be what it is called; what is the run's own has to be its own."""
    for payload in rows["payloads"]:
        if codec.digest(codec.dumps(payload["body"])) != payload["hash"]:
            raise SnapshotIntegrityError(snapshot.snapshot_id, "a large value does not fit its digest")
    asked = {row["request_id"] for row in rows["interactions"]}
    for table in TABLES:
        for row in rows[table]:
            if row["tenant_id"] != snapshot.tenant_id or row.get("run_id", snapshot.run_id) != snapshot.run_id:
                raise SnapshotFormatError(snapshot.snapshot_id, "it holds rows of something else")
            if table.startswith("interaction_") and row["request_id"] not in asked:
                raise SnapshotFormatError(snapshot.snapshot_id, "it holds answers of something else")
    if not {row["step_id"] for row in rows["run_steps"]} <= set(graph.nodes):
        raise SnapshotFormatError(snapshot.snapshot_id, "it holds steps that its segment has not")
