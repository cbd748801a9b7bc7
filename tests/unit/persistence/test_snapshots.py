"""Snapshots as values: checksums over everything, signatures, older formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam import codec
from llmteam.persistence import (
    AgentSnapshot,
    PipelinePhase,
    PipelineSnapshot,
    SnapshotFormatError,
    SnapshotIntegrityError,
    SnapshotTooLargeError,
    SnapshotType,
)
from llmteam.persistence.documents import PACK_FROM, check_signature, packed, read, sealed, unpacked, written
from tests.snapshots import NOW, snapshot

KEY = b"k" * 32

#: Another value for every field that a checksum covers.
CHANGES: Mapping[str, Any] = {
    "snapshot_id": "s-2",
    "snapshot_type": SnapshotType.AUTO,
    "pipeline_id": "other",
    "run_id": "run-78",
    "tenant_id": "globex",
    "pipeline_version": "2.0.0",
    "phase": PipelinePhase.RUNNING,
    "snapshot_version": "0.9",
    "global_state": {},
    "agent_snapshots": {"risk": AgentSnapshot("risk", {"score": 5}, messages=[{"at": NOW}])},
    "completed_steps": [],
    "next_steps": [],
    "current_step": "book",
    "pending_actions": ["a-1"],
    "pending_approvals": [],
    "created_at": datetime(2026, 3, 2, tzinfo=UTC),
    "started_at": None,
    "paused_at": NOW,
    "total_tokens": 1,
    "total_actions": 1,
    "total_approvals": 1,
    "metadata": {},
    "checksum_version": 1,
}


def test_a_checksum_covers_every_field() -> None:
    taken = sealed(snapshot())

    assert taken.verify()
    assert {*CHANGES, "checksum", "signature"} == {one.name for one in fields(PipelineSnapshot)}
    for name, value in CHANGES.items():
        assert not replace(taken, **{name: value}).verify(), name


def test_a_snapshot_is_read_as_it_was_written() -> None:
    taken = sealed(snapshot())

    back = read(codec.loads(written(taken)))

    assert back == taken
    assert back.global_state["since"] == NOW
    assert back.agents_state == {"risk": {"score": 4}}


def test_a_checksum_is_64_hex_digits_and_always_the_same() -> None:
    first, second = snapshot(), snapshot(global_state={"since": NOW, "input": {"id": 17}})

    assert first.compute_checksum() == second.compute_checksum()
    assert len(bytes.fromhex(first.compute_checksum())) == 32


@pytest.mark.parametrize("where", ["global_state", "agent_snapshots", "metadata", "tenant_id", "checksum"])
def test_a_damaged_document_is_refused_with_the_reason(where: str) -> None:
    document = sealed(snapshot()).to_dict()
    document[where] = "0" * 64 if isinstance(document[where], str) else {}

    with pytest.raises(SnapshotIntegrityError, match="checksum"):
        read(document)


def test_a_forged_snapshot_with_a_right_checksum_lacks_the_signature() -> None:
    taken = sealed(snapshot(), KEY)
    forged = sealed(replace(taken, global_state={"input": {"id": 18}}))

    check_signature(read(taken.to_dict()), KEY)
    for wrong in (forged, replace(forged, signature=taken.signature), sealed(snapshot(), b"x" * 32)):
        with pytest.raises(SnapshotIntegrityError, match="signature"):
            check_signature(read(wrong.to_dict()), KEY)


def test_a_partial_checksum_of_version_1_is_verified() -> None:
    document = sealed(snapshot(global_state={"input": {"id": 17}})).to_dict()
    for name in ("checksum_version", "metadata", "signature"):
        del document[name]
    covered = {name: document[name] for name in ("pipeline_id", "run_id", "phase", "completed_steps", "current_step")}
    covered["global_state"] = json.dumps(document["global_state"], sort_keys=True)
    document["checksum"] = codec.digest(json.dumps(covered, sort_keys=True))

    assert read(document).checksum_version == 1
    with pytest.raises(SnapshotIntegrityError):
        read({**document, "current_step": "elsewhere"})
    with pytest.raises(SnapshotIntegrityError, match="signature"):
        check_signature(read(document), KEY)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"snapshot_version": "2.0"}, "newer"),
        ({"snapshot_version": "latest"}, "none"),
        ({"checksum_version": 3}, "none"),
        ({"phase": "dreaming"}, "fields"),
        ({"more": 1}, "fields"),
        ({"agent_snapshots": {"risk": {"score": 4}}}, "fields"),
        ({"created_at": "yesterday"}, "fields"),
        ({"metadata": {"at": {"$type": "datetime", "value": "x"}}}, "datetime"),
    ],
)
def test_a_document_of_another_format_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SnapshotFormatError, match=reason):
        read({**sealed(snapshot()).to_dict(), **change})


def test_a_snapshot_over_the_limit_is_refused() -> None:
    large = sealed(snapshot(global_state={"text": "x" * 1000}))

    with pytest.raises(SnapshotTooLargeError) as caught:
        written(large, 1000)
    assert caught.value.limit == 1000
    assert caught.value.size > 1000


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=3 * PACK_FROM))
def test_what_is_packed_is_unpacked_and_what_is_cut_off_is_refused(text: str) -> None:
    data = packed(text)

    assert unpacked(data) == text
    assert len(data) <= max(len(text.encode()) + 1, PACK_FROM)
    if data.startswith(b"z"):
        with pytest.raises(SnapshotFormatError):
            unpacked(data[:-1])
    if text:
        with pytest.raises(SnapshotTooLargeError):
            unpacked(data, len(text.encode()) - 1)
