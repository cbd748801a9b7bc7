"""The contexts of the agents of a run: opened by the steps that own them, in whatever worker; seen by who is above."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any

from llmteam.context.auditing import AccessTrail
from llmteam.context.documents import dump_context, load_context
from llmteam.context.exceptions import ContextError, InvalidContextError
from llmteam.context.hierarchy import ContextManager, HierarchicalContext
from llmteam.context.policy import ROLE_PIPELINE_ORCH, ContextAccessPolicy, ContextScope
from llmteam.context.secure import OnTexts, SecureAgentContext, nobody
from llmteam.context.stores import ContextStore, StoredContext
from llmteam.crypto import Vault
from llmteam.ids import check_identifier

#: Whom a context that is only looked at was opened for: no id, so that no reader can pass for the agent.
ONLOOKER = "(onlooker)"
#: Gives the vault of a tenant.
VaultOf = Callable[[str], Vault]
#: Gives the audit trail of a tenant, if there is one.
TrailOf = Callable[[str], AccessTrail | None]


class Contexts:
    """The contexts of all runs in one store, with what encrypts them, and what is told of accesses to them.

    ``audit_trail``, of the methods, takes the place of the tenant's own.
    """

    def __init__(self, store: ContextStore, vault_of: VaultOf, trail_of: TrailOf = lambda tenant_id: None) -> None:
        self.store = store
        self.vault_of = vault_of
        self.trail_of = trail_of

    def open(
        self,
        tenant_id: str,
        run_id: str,
        agent_id: str,
        *,
        name: str = "",
        policy: ContextAccessPolicy | None = None,
        audit_trail: AccessTrail | None = None,
        shared: Mapping[str, Any] | None = None,
        on_texts: OnTexts = nobody,
        hidden: Collection[str] = (),
    ) -> OpenContext:
        """The agent's own context of a run, for a ``with`` or ``async with`` block; see :class:`OpenContext`.

        ``name``, ``policy`` and ``shared`` (its first data) count where there is no context yet. ``on_texts`` is told
        the texts of each sealed value that the agent handles; ``hidden`` are secrets that it was given, up to when the
        block ends: they are masked wherever it wrote them.
        """
        trail = audit_trail or self.trail_of(tenant_id)
        check_identifier("agent_id", agent_id)

        def fresh(vault: Vault) -> SecureAgentContext:
            return SecureAgentContext(
                agent_id,
                name or agent_id,
                data=copy.deepcopy(dict(shared or {})),
                access_policy=ContextAccessPolicy.from_dict(policy.to_dict()) if policy else ContextAccessPolicy(),
                tenant_id=tenant_id,
                run_id=run_id,
                _audit_trail=trail,
                _principal=agent_id,
                _vault=vault,
            )

        return OpenContext(self, (tenant_id, run_id, agent_id), fresh, trail, on_texts, hidden)

    def tree(self, tenant_id: str, run_id: str, *, audit_trail: AccessTrail | None = None) -> HierarchicalContext:
        """The run as a pipeline with its agents below it, their fields aggregated; to be looked at."""
        trail = audit_trail or self.trail_of(tenant_id)
        manager = ContextManager()
        root = manager.create_context(ContextScope.PIPELINE, run_id)
        for stored in self.store.all(tenant_id, run_id):
            secure = self.loaded((tenant_id, run_id, stored.path), stored, trail, principal=ONLOOKER)
            child = manager.create_child(root, stored.path, ContextScope.AGENT, secure_context=secure)
            # An agent that writes nonsense of itself must not hide the others.
            with contextlib.suppress(InvalidContextError):
                manager.propagate_up(child.path)
        return root

    def loaded(
        self, ident: tuple[str, str, str], stored: StoredContext, audit_trail: AccessTrail | None, *, principal: str
    ) -> SecureAgentContext:
        """What is stored for a tenant, a run and an agent; where it stands counts, not what the document says."""
        place = dict(zip(("tenant_id", "run_id", "agent_id"), ident, strict=True))
        document = {**stored.document, **place}
        return load_context(document, vault=self.vault_of(ident[0]), audit_trail=audit_trail, principal=principal)

    def views(
        self, tenant_id: str, run_id: str, *, audit_trail: AccessTrail | None = None
    ) -> dict[str, dict[str, Any]]:
        """What the run's own orchestrator sees of each of its agents, by agent id."""
        return self.tree(tenant_id, run_id, audit_trail=audit_trail).get_visible_children(run_id, ROLE_PIPELINE_ORCH)


class OpenContext:
    """An agent's context for the time of a block: read when it begins, written when it ends without an error.

    Writing is a compare-and-set: where somebody else wrote meanwhile, such as another attempt at the same step, the
    block's end raises :class:`ContextConflictError`, for which a step is tried again. A plain block waits for the
    store; ``async with`` does not block the loop.
    """

    def __init__(
        self,
        contexts: Contexts,
        ident: tuple[str, str, str],
        fresh: Callable[[Vault], SecureAgentContext],
        audit_trail: AccessTrail | None,
        on_texts: OnTexts,
        hidden: Collection[str],
    ) -> None:
        self._contexts = contexts
        self._ident = ident
        self._fresh = fresh
        self._audit_trail = audit_trail
        self._on_texts = on_texts
        self._hidden = hidden
        self._context: SecureAgentContext | None = None
        self._version = 0
        self._before: dict[str, Any] | None = None

    def __enter__(self) -> SecureAgentContext:
        if self._context is not None:
            raise ContextError("this context is open already: open another one for another block")
        tenant_id, _, agent_id = self._ident
        stored = self._contexts.store.load(*self._ident)
        if stored is None:
            self._context = self._fresh(self._contexts.vault_of(tenant_id))
        else:
            self._version, self._before = stored.version, stored.document
            self._context = self._contexts.loaded(self._ident, stored, self._audit_trail, principal=agent_id)
        self._context._on_texts = self._on_texts
        return self._context

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        context, self._context = self._context, None
        if exc is not None or context is None:
            return
        document = dump_context(context, durable=self._contexts.store.durable, hidden=self._hidden)
        if document != self._before:
            self._version = self._contexts.store.save(*self._ident, document, self._version)

    async def __aenter__(self) -> SecureAgentContext:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, exc, trace)
