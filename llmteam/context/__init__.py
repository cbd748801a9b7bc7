"""What agents know, who may see it, and what only they may read: secure and hierarchical contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.context.auditing import AccessTrail, use_current_trail
from llmteam.context.documents import dump_context, dump_hierarchy, load_context, load_hierarchy
from llmteam.context.exceptions import (
    ContextAccessError,
    ContextConflictError,
    ContextError,
    EncryptionRequiredError,
    InvalidContextError,
    SealedDataAccessError,
    UnknownSealedFieldError,
)
from llmteam.context.hierarchy import ContextManager, HierarchicalContext
from llmteam.context.policy import (
    ROLE_AGENT,
    ROLE_GROUP_ORCH,
    ROLE_PIPELINE_ORCH,
    ROLE_SYSTEM,
    SENSITIVITY_VISIBILITY_MAP,
    ContextAccessPolicy,
    ContextAccessResult,
    ContextScope,
    SensitivityLevel,
    VisibilityLevel,
    get_visibility_for_sensitivity,
    is_visibility_allowed,
)
from llmteam.context.propagation import ContextPropagationConfig
from llmteam.context.runs import Contexts, OpenContext
from llmteam.context.sealed import SealedData
from llmteam.context.secure import SecureAgentContext, create_secure_context
from llmteam.context.stores import ContextStore, MemoryContextStore, StoredContext

if TYPE_CHECKING:
    from llmteam.context.postgres import PostgresContextStore

__all__ = [
    "ROLE_AGENT",
    "ROLE_GROUP_ORCH",
    "ROLE_PIPELINE_ORCH",
    "ROLE_SYSTEM",
    "SENSITIVITY_VISIBILITY_MAP",
    "AccessTrail",
    "ContextAccessError",
    "ContextAccessPolicy",
    "ContextAccessResult",
    "ContextConflictError",
    "ContextError",
    "ContextManager",
    "ContextPropagationConfig",
    "ContextScope",
    "ContextStore",
    "Contexts",
    "EncryptionRequiredError",
    "HierarchicalContext",
    "InvalidContextError",
    "MemoryContextStore",
    "OpenContext",
    "PostgresContextStore",
    "SealedData",
    "SealedDataAccessError",
    "SecureAgentContext",
    "SensitivityLevel",
    "StoredContext",
    "UnknownSealedFieldError",
    "VisibilityLevel",
    "create_secure_context",
    "dump_context",
    "dump_hierarchy",
    "get_visibility_for_sensitivity",
    "is_visibility_allowed",
    "load_context",
    "load_hierarchy",
    "use_current_trail",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresContextStore":
        from llmteam.context.postgres import PostgresContextStore

        return PostgresContextStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
