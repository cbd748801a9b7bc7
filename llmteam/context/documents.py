"""Contexts as JSON documents that lose nothing: sealed values are in them as they are, encrypted."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.context.auditing import AccessTrail
from llmteam.context.exceptions import EncryptionRequiredError, InvalidContextError
from llmteam.context.hierarchy import HierarchicalContext
from llmteam.context.policy import ContextAccessPolicy, ContextScope
from llmteam.context.sealed import SealedData
from llmteam.context.secure import SecureAgentContext
from llmteam.crypto import Vault
from llmteam.masking import redact_in

#: Version of the form of these documents.
FORMAT = 1

_PLAIN = ("agent_id", "agent_name", "confidence", "error_count", "tenant_id", "run_id")
_FREE = ("status", "last_action", "reasoning_steps", "sources", "messages", "data")


def dump_context(context: SecureAgentContext, *, durable: bool = True, hidden: Collection[str] = ()) -> dict[str, Any]:
    """The context as JSON; sealed and ``hidden`` texts that stand elsewhere in it by mistake are masked there.

    Raises :class:`EncryptionRequiredError` when something is sealed with a key that ends with this process, unless the
    document does so too (``durable=False``).
    """
    vault = context._vault
    if durable and context._sealed and (vault is None or not vault.durable):
        raise EncryptionRequiredError(next(iter(context._sealed)))
    free = context.covered({name: copy.deepcopy(getattr(context, name)) for name in _FREE})
    if hidden:
        # A secret that stands there as it was given out is refused, as ever, and not masked.
        codec.check(free, "$.context")
    return {
        "format": FORMAT,
        **{name: getattr(context, name) for name in _PLAIN},
        **redact_in(free, hidden),
        "access_policy": context.access_policy.to_dict(),
        "sealed": {key: sealed.to_document() for key, sealed in context._sealed.items()},
        "created_at": context.created_at.isoformat(),
        "updated_at": context.updated_at.isoformat(),
    }


def load_context(
    document: Mapping[str, Any],
    *,
    vault: Vault | None = None,
    audit_trail: AccessTrail | None = None,
    principal: str | None = None,
) -> SecureAgentContext:
    """The context of :func:`dump_context`.

    ``vault`` opens what is sealed when it is read. With a ``principal``, nobody else is believed to be the owner.
    Raises :class:`InvalidContextError` for a document of another form.
    """
    try:
        if document["format"] != FORMAT:
            raise InvalidContextError(f"a context of form {document['format']!r}: a newer llmteam wrote it")
        values = {name: copy.deepcopy(document[name]) for name in (*_PLAIN, *_FREE)}
        context = SecureAgentContext(
            **values,
            access_policy=ContextAccessPolicy.from_dict(document["access_policy"]),
            created_at=datetime.fromisoformat(document["created_at"]),
            updated_at=datetime.fromisoformat(document["updated_at"]),
            _audit_trail=audit_trail,
            _principal=principal,
            _vault=vault,
        )
        context._sealed = {
            key: SealedData.from_document(sealed, vault=vault, place=context._place(key))
            for key, sealed in document["sealed"].items()
        }
    except (KeyError, TypeError, AttributeError) as exc:
        raise InvalidContextError(f"this is no context: {type(exc).__name__} at {exc}") from None
    context._is_original = False
    return context


def dump_hierarchy(context: HierarchicalContext) -> dict[str, Any]:
    """A context with all that is below it as JSON. Raises as :func:`dump_context`."""
    return {
        "format": FORMAT,
        "context_id": context.context_id,
        "scope": context.scope.value,
        "data": context.to_dict()["data"],
        "aggregated": copy.deepcopy(context.aggregated),
        "contributions": copy.deepcopy(context._contributions),
        "inherits": None if context._inherited is None else sorted(context._inherited),
        "secure_context": None if context.secure_context is None else dump_context(context.secure_context),
        "created_at": context.created_at.isoformat(),
        "updated_at": context.updated_at.isoformat(),
        "access_count": context.access_count,
        "children": [dump_hierarchy(child) for child in context.children.values()],
    }


def load_hierarchy(
    document: Mapping[str, Any], *, vault: Vault | None = None, audit_trail: AccessTrail | None = None
) -> HierarchicalContext:
    """The contexts of :func:`dump_hierarchy`. Raises :class:`InvalidContextError` for a document of another form."""
    try:
        secure = document["secure_context"]
        context = HierarchicalContext(
            document["context_id"],
            ContextScope(document["scope"]),
            data=copy.deepcopy(document["data"]),
            secure_context=None if secure is None else load_context(secure, vault=vault, audit_trail=audit_trail),
        )
        context.aggregated = copy.deepcopy(document["aggregated"])
        context._contributions = copy.deepcopy(document["contributions"])
        inherits = document["inherits"]
        context._inherited = None if inherits is None else frozenset(inherits)
        for child in document["children"]:
            context.set_child_context(child["context_id"], load_hierarchy(child, vault=vault, audit_trail=audit_trail))
        context.created_at = datetime.fromisoformat(document["created_at"])
        context.updated_at = datetime.fromisoformat(document["updated_at"])
        context.access_count = document["access_count"]
    except (KeyError, TypeError, AttributeError) as exc:
        raise InvalidContextError(f"this is no hierarchy of contexts: {type(exc).__name__} at {exc}") from None
    return context
