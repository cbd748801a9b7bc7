"""What can go wrong around the audit trail.

::

    AuditError
    ├── AuditIntegrityError     the chain does not hold; also where a finished record is appended behind its place
    ├── AuditStorageError       the store cannot be reached or refused; also an InfrastructureError
    └── InvalidAuditQueryError  a question that cannot be asked; also a ValueError
"""

from __future__ import annotations

from collections.abc import Sequence

from llmteam.errors import InfrastructureError, LLMTeamError


class AuditError(LLMTeamError):
    """Root of the errors of this package."""

    retryable = False


class AuditIntegrityError(AuditError):
    """Records do not follow from each other. ``invalid_records`` are the ids of those that cannot be trusted."""

    def __init__(self, message: str, invalid_records: Sequence[str] | None = None) -> None:
        super().__init__(message)
        self.invalid_records: list[str] = list(invalid_records or ())


class AuditStorageError(AuditError, InfrastructureError):
    """Records could not be written or read; what the store said is the cause.

    ``retryable`` says whether the same may succeed later. When a connection broke at the very end of a write, the
    records may be there all the same: an idempotency key makes trying again safe.
    """

    def __init__(self, message: str, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class InvalidAuditQueryError(AuditError, ValueError):
    """A query names an order, a number or a period that cannot be."""
