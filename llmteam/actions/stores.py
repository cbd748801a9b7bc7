"""Where attempts at actions are kept, so that what was done is not done again: the protocol, and the memory form."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from llmteam import codec
from llmteam.actions.models import ActionResult, ActionStatus
from llmteam.errors import NotJSONError

if TYPE_CHECKING:
    from llmteam.actions.postgres import PostgresAttemptStore

__all__ = ["AttemptRecord", "AttemptStore", "Begun", "Call", "MemoryAttemptStore", "PostgresAttemptStore"]

#: The type of error of an attempt of which nothing was heard when the next one began.
LOST = "AttemptLost"


def __getattr__(name: str) -> Any:
    """The store that needs a server's library loads on first use."""
    if name == "PostgresAttemptStore":
        from llmteam.actions.postgres import PostgresAttemptStore

        return PostgresAttemptStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an action, however many attempts it takes. Its key stands for one ``payload_hash``."""

    tenant_id: str
    action_id: str
    idempotency_key: str = field(repr=False)
    run_id: str
    step_id: str
    visit: int
    payload_hash: str


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer to a call: its attempt number ``attempt`` may be made, or it is done already, with ``result``.

    ``payload_hash`` is that of the attempts that were made before, empty when there was none.
    """

    attempt: int
    result: ActionResult | None = None
    payload_hash: str = ""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt as an operator sees it."""

    call: Call
    attempt: int
    status: ActionStatus
    started_at: datetime
    finished_at: datetime | None = None
    error_type: str = ""
    document: str | None = field(default=None, repr=False)


class AttemptStore(Protocol):
    """Keeps attempts. Synchronous; each method is one transaction."""

    def begin(self, call: Call, now: datetime) -> Begun:
        """Write down that an attempt is made, unless the call is completed.

        Attempts of which nothing was heard are closed as :data:`LOST`. With another ``payload_hash`` than before
        nothing is written and ``attempt`` is 0.
        """
        ...

    def finish(self, call: Call, attempt: int, result: ActionResult, now: datetime) -> None:
        """Write down what came of an attempt, also of one that was closed as lost. Raises :class:`NotJSONError`."""
        ...

    def records(self, tenant_id: str, run_id: str) -> list[AttemptRecord]:
        """The attempts of a run, in the order in which they began."""
        ...


def document_of(result: ActionResult) -> str:
    """A result as it is kept. Raises :class:`NotJSONError`."""
    return codec.dumps(result.to_dict(), path="$.result")


def kept_result(document: str | Mapping[str, Any]) -> ActionResult:
    """A result that was kept, marked as such."""
    found = ActionResult.from_dict(codec.loads(document) if isinstance(document, str) else document)
    return replace(found, audit_metadata={**found.audit_metadata, "replayed": True})


def is_json(value: Any) -> bool:
    """Whether a store could keep the value."""
    try:
        codec.check(value)
    except NotJSONError:
        return False
    return True


class MemoryAttemptStore:
    """An :class:`AttemptStore` in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str, str], list[AttemptRecord]] = {}

    def begin(self, call: Call, now: datetime) -> Begun:
        """As :meth:`AttemptStore.begin`."""
        with self._lock:
            made = self._kept.setdefault(_key(call), [])
            if made and made[0].call.payload_hash != call.payload_hash:
                return Begun(0, None, made[0].call.payload_hash)
            done = next((one for one in made if one.status is ActionStatus.COMPLETED and one.document), None)
            if done is not None:
                return Begun(done.attempt, kept_result(done.document or ""), call.payload_hash)
            for index, one in enumerate(made):
                if one.status is ActionStatus.RUNNING:
                    made[index] = replace(one, status=ActionStatus.FAILED, finished_at=now, error_type=LOST)
            made.append(AttemptRecord(call, len(made) + 1, ActionStatus.RUNNING, now))
            return Begun(len(made), None, call.payload_hash if len(made) > 1 else "")

    def finish(self, call: Call, attempt: int, result: ActionResult, now: datetime) -> None:
        """As :meth:`AttemptStore.finish`."""
        document = document_of(result)
        with self._lock:
            made = self._kept[_key(call)]
            made[attempt - 1] = replace(
                made[attempt - 1],
                status=result.status,
                finished_at=now,
                error_type=result.error_type,
                document=document,
            )

    def records(self, tenant_id: str, run_id: str) -> list[AttemptRecord]:
        """As :meth:`AttemptStore.records`."""
        with self._lock:
            every = [one for made in self._kept.values() for one in made]
        found = [one for one in every if (one.call.tenant_id, one.call.run_id) == (tenant_id, run_id)]
        return sorted(
            found, key=lambda one: (one.started_at, one.call.action_id, one.call.idempotency_key, one.attempt)
        )


def _key(call: Call) -> tuple[str, str, str]:
    return call.tenant_id, call.action_id, call.idempotency_key
