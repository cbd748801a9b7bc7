"""The root of every error that llmteam raises, and the kinds that several packages share.

::

    LLMTeamError
    ├── ConfigurationError          a setting is missing or wrong
    ├── InfrastructureError         a server cannot be reached or is not set up
    │   └── MigrationsNotAppliedError
    ├── NotJSONError                a value cannot be carried as JSON
    ├── PayloadTooLargeError        a value is over its size limit
    └── (each package adds its own kinds)

An error says what is wrong, where, and what to do; it never carries a secret or a payload.
"""

from __future__ import annotations

from typing import Any, Self


class LLMTeamError(Exception):
    """Root of every error of this package.

    ``retryable`` answers the engine's question whether the same step may succeed when it is tried
    again. ``None`` leaves the decision to the retry policy.

    Constructor arguments are kept, so that an error with any signature survives pickling (Celery
    otherwise hands its caller the base class).
    """

    retryable: bool | None = None

    _call: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Without them, or an OSError among the bases would read the constructor's arguments as errno and text.
        self = super().__new__(cls)
        self._call = (args, kwargs)
        return self

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        args, kwargs = self._call
        return _rebuild, (type(self), args, kwargs)


def _rebuild(cls: type[LLMTeamError], args: tuple[Any, ...], kwargs: dict[str, Any]) -> LLMTeamError:
    return cls(*args, **kwargs)


class ConfigurationError(LLMTeamError):
    """A setting is missing or has a value that cannot be used."""

    retryable = False


class InfrastructureError(LLMTeamError):
    """A server (Postgres, broker, …) cannot be reached or is not set up. The command line exits with 3."""

    retryable = True


class MigrationsNotAppliedError(InfrastructureError):
    """The database schema is older or newer than this version of the package needs."""

    retryable = False


class NotJSONError(LLMTeamError):
    """A value cannot be carried as JSON.

    ``path`` is the JSON path of the offending part, for example ``$.items[3].when``.
    """

    retryable = False

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class PayloadTooLargeError(LLMTeamError):
    """A value is over its size limit. Sizes are in bytes of canonical JSON."""

    retryable = False

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(
            f"{what} is {size:,} bytes of JSON, over the limit of {limit:,}: "
            "return less, or store it elsewhere and return a reference"
        )
        self.what = what
        self.size = size
        self.limit = limit
