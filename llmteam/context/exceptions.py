"""What can go wrong around contexts.

::

    ContextError
    ├── ContextAccessError          somebody asked for what they may not see
    │   └── SealedDataAccessError   … a sealed value that is another's; also a PermissionError
    ├── UnknownSealedFieldError     nothing is sealed under this name; also a KeyError
    ├── InvalidContextError         a value, a name or a place in the hierarchy that cannot be; also a ValueError
    ├── EncryptionRequiredError     a value must be encrypted and there is no key that outlives the process
    └── ContextConflictError        somebody else wrote the same context meanwhile

No text holds a value, sealed or not.
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class ContextError(LLMTeamError):
    """Root of the errors of this package."""

    retryable = False


class ContextAccessError(ContextError):
    """Somebody asked for what they may not see. ``viewer_id`` is who, ``field_name`` what, where that is known."""

    def __init__(self, message: str, viewer_id: str = "", field_name: str = "") -> None:
        super().__init__(message)
        self.viewer_id = viewer_id
        self.field_name = field_name


class SealedDataAccessError(ContextAccessError, PermissionError):
    """A sealed value was asked for, changed or deleted by somebody who does not own it."""

    def __init__(self, owner_id: str, requester_id: str, field_name: str = "") -> None:
        what = f"the sealed field '{field_name[:80]}'" if field_name else "sealed data"
        super().__init__(
            f"{what} belongs to '{owner_id[:80]}' alone: '{requester_id[:80]}' may not have it",
            viewer_id=requester_id,
            field_name=field_name,
        )
        self.owner_id = owner_id
        self.requester_id = requester_id


class UnknownSealedFieldError(ContextError, KeyError):
    """Nothing is sealed under this name."""

    def __init__(self, field_name: str) -> None:
        super().__init__(f"nothing is sealed under '{field_name[:80]}': call set_sealed first")
        self.field_name = field_name

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidContextError(ContextError, ValueError):
    """A value, a name or a place in the hierarchy that cannot be."""


class EncryptionRequiredError(ContextError):
    """A value must be encrypted, and there is no key that outlives this process."""

    def __init__(self, field_name: str) -> None:
        super().__init__(
            f"the field '{field_name[:80]}' must be encrypted and this context has no tenant's key: open it in a step "
            "(ctx.open_context), or give it one: context.use_vault(keys.vault(tenant_id))"
        )
        self.field_name = field_name


class ContextConflictError(ContextError):
    """Somebody else wrote the same context meanwhile; nothing of this attempt was kept."""

    retryable = True

    def __init__(self, path: str) -> None:
        super().__init__(f"the context '{path[:200]}' was written by somebody else meanwhile: read it again and retry")
        self.path = path
