"""Where the contexts of runs are kept: the protocol and the store in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmteam import codec
from llmteam.context.exceptions import ContextConflictError

if TYPE_CHECKING:
    from llmteam.context.postgres import PostgresContextStore

__all__ = ["ContextStore", "MemoryContextStore", "PostgresContextStore", "StoredContext"]


@dataclass(frozen=True, slots=True)
class StoredContext:
    """A context as it is kept: its document, and the number of times that it was written."""

    path: str
    version: int
    document: dict[str, Any]


class ContextStore(Protocol):
    """Contexts by tenant, run and path. Synchronous; each method is one transaction."""

    @property
    def durable(self) -> bool:
        """Whether it outlives the process."""
        ...

    def load(self, tenant_id: str, run_id: str, path: str) -> StoredContext | None: ...

    def all(self, tenant_id: str, run_id: str) -> list[StoredContext]:
        """Every context of a run, by path."""
        ...

    def save(self, tenant_id: str, run_id: str, path: str, document: Mapping[str, Any], version: int) -> int:
        """Write a context that was read at ``version`` (0: there was none); the version that it has now.

        Raises :class:`ContextConflictError` when it has another version meanwhile, :class:`NotJSONError`.
        """
        ...

    def delete(self, tenant_id: str, run_id: str) -> int:
        """Delete every context of a run; how many there were."""
        ...


class MemoryContextStore:
    """Contexts in this process's memory; safe for threads."""

    durable = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], dict[str, tuple[int, str]]] = {}

    def load(self, tenant_id: str, run_id: str, path: str) -> StoredContext | None:
        """As :meth:`ContextStore.load`."""
        with self._lock:
            found = self._kept.get((tenant_id, run_id), {}).get(path)
        return None if found is None else StoredContext(path, found[0], codec.loads(found[1]))

    def all(self, tenant_id: str, run_id: str) -> list[StoredContext]:
        """As :meth:`ContextStore.all`."""
        with self._lock:
            found = sorted(self._kept.get((tenant_id, run_id), {}).items())
        return [StoredContext(path, version, codec.loads(text)) for path, (version, text) in found]

    def save(self, tenant_id: str, run_id: str, path: str, document: Mapping[str, Any], version: int) -> int:
        """As :meth:`ContextStore.save`."""
        text = codec.dumps(dict(document), path="$.context")
        with self._lock:
            kept = self._kept.setdefault((tenant_id, run_id), {})
            if kept.get(path, (0, ""))[0] != version:
                raise ContextConflictError(path)
            kept[path] = (version + 1, text)
        return version + 1

    def delete(self, tenant_id: str, run_id: str) -> int:
        """As :meth:`ContextStore.delete`."""
        with self._lock:
            return len(self._kept.pop((tenant_id, run_id), {}))


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresContextStore":
        from llmteam.context.postgres import PostgresContextStore

        return PostgresContextStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
