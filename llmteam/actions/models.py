"""Actions, the calls of them and what came of these, as values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self, TypedDict, Unpack

from llmteam.actions.exceptions import InvalidActionError
from llmteam.ids import as_utc, utc_now

#: Statuses after which another attempt may succeed.
RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Bytes of an answer after decompression.
MAX_RESPONSE_BYTES = 5 * 1024 * 1024
#: Methods whose payload travels in the query, without a body.
QUERY_METHODS = frozenset({"GET", "HEAD", "DELETE"})
#: Methods that do no harm when a server sees them twice (RFC 9110, section 9.2.2).
REPEATABLE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_AUTH_TYPES = ("", "bearer", "basic", "api_key")
_ID = re.compile(r"[\w][\w .:/@-]{0,199}", re.ASCII)


class ActionType(StrEnum):
    """What kind of thing an action reaches."""

    WEBHOOK = "webhook"
    REST_API = "rest_api"
    GRPC = "grpc"
    DATABASE = "database"
    MESSAGE_QUEUE = "message_queue"
    FUNCTION = "function"


class ActionStatus(StrEnum):
    """How far an action, or one attempt of it, has come."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"

    @property
    def audited_as(self) -> str:
        """The type of the audit record of its end."""
        return "action.failed" if self in (ActionStatus.FAILED, ActionStatus.TIMEOUT) else "action.completed"


class ActionFields(TypedDict, total=False):
    """What :class:`ActionConfig` takes by name only."""

    timeout: timedelta | float
    retry_count: int
    request_schema: Mapping[str, Any] | None
    response_schema: Mapping[str, Any] | None
    auth_type: str
    auth_config: Mapping[str, str]
    retry_delay: timedelta | float
    retry_backoff: float
    retry_max_delay: timedelta | float
    retry_statuses: Collection[int]
    idempotency_header: str | None
    secret_ref: str | None
    signing_secret_ref: str | None
    max_response_bytes: int
    follow_redirects: bool
    trusted: bool
    statement: str | None
    read_only: bool
    timeout_seconds: float
    max_retries: int


class ActionSpellings(ActionFields, total=False):
    """Those, and other spellings of the rest."""

    name: str
    url: str | None


#: Other spellings.
_ALIASES = {"name": "action_id", "url": "endpoint", "timeout_seconds": "timeout", "max_retries": "retry_count"}
_DURATIONS = ("timeout", "retry_delay", "retry_max_delay")


@dataclass(frozen=True, init=False)
class ActionConfig:
    """An action: where it leads and how it is called. Durations are timedeltas or seconds.

    ``endpoint`` is a URL for WEBHOOK and REST_API, ``module:function`` for FUNCTION, the name of a client that is
    registered in the runtime for DATABASE, and for MESSAGE_QUEUE ``queue``, ``exchange/routing.key`` or
    ``topic:exchange/routing.key``.

    ``secret_ref`` names the secret that is the token, password or key of ``auth_type``; ``signing_secret_ref`` the one
    that the body is signed with; ``${secret:name}`` in a header is that secret. All are read at the call.
    ``idempotency_header`` is ``Idempotency-Key`` unless it is given; with "" none is sent, and POST and PATCH are not
    repeated. ``trusted`` lets exactly the endpoint's host and port be on a private network.

    Raises :class:`InvalidActionError`; ``TypeError`` for a field that there is not, or that is given twice.
    """

    action_id: str
    action_type: ActionType
    endpoint: str | None = field(default=None, repr=False)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: timedelta = timedelta(seconds=30)
    retry_count: int = 3
    request_schema: Mapping[str, Any] | None = field(default=None, repr=False)
    response_schema: Mapping[str, Any] | None = field(default=None, repr=False)
    auth_type: str = ""
    auth_config: Mapping[str, str] = field(default_factory=dict, repr=False)
    retry_delay: timedelta = timedelta(seconds=1)
    retry_backoff: float = 2.0
    retry_max_delay: timedelta = timedelta(seconds=60)
    retry_statuses: frozenset[int] = RETRY_STATUSES
    idempotency_header: str | None = None
    secret_ref: str | None = None
    signing_secret_ref: str | None = None
    max_response_bytes: int = MAX_RESPONSE_BYTES
    follow_redirects: bool = False
    trusted: bool = False
    statement: str | None = None
    read_only: bool = False

    def __init__(
        self,
        action_id: str | None = None,
        action_type: ActionType | str = ActionType.WEBHOOK,
        endpoint: str | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        **others: Unpack[ActionSpellings],
    ) -> None:
        given: dict[str, Any] = {
            name: value for name, value in (("action_id", action_id), ("endpoint", endpoint)) if value is not None
        }
        for name, value in others.items():
            target = _ALIASES.get(name, name)
            if target in given:
                raise TypeError(f"ActionConfig() got {target} twice, the second time as {name}")
            given[target] = value
        given |= {"action_type": action_type, "method": method, "headers": headers or {}}
        known = {item.name: item for item in fields(self)}
        if unknown := sorted(set(given) - set(known)):
            raise TypeError(f"ActionConfig() got unknown fields: {', '.join(unknown)}")
        for name, item in known.items():
            default = item.default_factory() if callable(item.default_factory) else item.default
            object.__setattr__(self, name, given.get(name, default))
        self._check()

    @property
    def name(self) -> str:
        return self.action_id

    @property
    def url(self) -> str | None:
        return self.endpoint

    @property
    def timeout_seconds(self) -> float:
        return self.timeout.total_seconds()

    @property
    def max_retries(self) -> int:
        return self.retry_count

    @property
    def idempotency_name(self) -> str:
        """The header of the idempotency key; empty when none is sent."""
        return "Idempotency-Key" if self.idempotency_header is None else self.idempotency_header

    @property
    def repeatable(self) -> bool:
        """Whether a second attempt can do no harm that the receiver could not tell from the first."""
        if self.action_type not in (ActionType.WEBHOOK, ActionType.REST_API):
            return True
        return self.method in REPEATABLE_METHODS or bool(self.idempotency_name)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        if not isinstance(self.action_id, str) or _ID.fullmatch(self.action_id) is None:
            raise InvalidActionError(str(self.action_id), "its id must be 1 to 200 letters, digits and _ . : / @ -")
        try:
            self._set("action_type", ActionType(self.action_type))
        except ValueError:
            known = ", ".join(ActionType)
            raise InvalidActionError(self.action_id, f"action_type must be one of {known}") from None
        for name in _DURATIONS:
            self._set(name, self._duration(name, getattr(self, name)))
        if self.timeout <= timedelta():
            raise InvalidActionError(self.action_id, "timeout must be above 0")
        self._set("method", str(self.method).upper())
        if self.method not in _METHODS:
            raise InvalidActionError(self.action_id, f"method must be one of {', '.join(_METHODS)}")
        if self.auth_type not in _AUTH_TYPES:
            raise InvalidActionError(self.action_id, "auth_type must be bearer, basic, api_key or empty")
        if type(self.retry_count) is not int or not 0 <= self.retry_count <= 100:
            raise InvalidActionError(self.action_id, "retry_count must be a whole number from 0 to 100")
        if not 1 <= self.retry_backoff <= 100:
            raise InvalidActionError(self.action_id, "retry_backoff must be a number from 1 to 100")
        self._set("retry_statuses", frozenset(self.retry_statuses))

    def _duration(self, name: str, value: object) -> timedelta:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e6:
            return timedelta(seconds=value)
        if isinstance(value, timedelta) and value >= timedelta():
            return value
        raise InvalidActionError(self.action_id, f"{name} must be a timedelta or seconds, not negative")


@dataclass
class ActionContext:
    """One call of an action: who makes it, for whom, with what.

    ``step_id``, ``visit``, ``idempotency_key`` and ``attempt`` are known inside a step and during the call.
    ``timeout`` replaces the action's own.
    """

    action_name: str
    run_id: str
    agent_name: str
    tenant_id: str
    input_data: dict[str, Any] = field(default_factory=dict, repr=False)
    pipeline_state: dict[str, Any] = field(default_factory=dict, repr=False)
    agent_context: dict[str, Any] = field(default_factory=dict, repr=False)
    timestamp: datetime = field(default_factory=utc_now)
    correlation_id: str = ""
    step_id: str = ""
    visit: int = 1
    attempt: int = 1
    idempotency_key: str = ""
    timeout: timedelta | None = None


@dataclass
class ActionResult:
    """What came of an action.

    ``retry_count`` counts retries that were made; ``duration_ms`` covers all attempts and the waiting between them.
    ``retryable`` says whether another attempt may succeed (None: its status decides), ``retry_after`` how many seconds
    the other side asked to wait.
    """

    action_name: str
    status: ActionStatus
    response_data: Any = field(default=None, repr=False)
    response_code: int = 0
    started_at: datetime = field(default_factory=utc_now)
    completed_at: datetime | None = None
    duration_ms: int = 0
    error_message: str = ""
    error_type: str = ""
    retry_count: int = 0
    audit_metadata: dict[str, Any] = field(default_factory=dict)
    retryable: bool | None = None
    retry_after: float | None = None

    @classmethod
    def failure(cls, action_name: str, error_type: str, message: str, **others: Any) -> Self:
        """A failed one."""
        return cls(action_name, ActionStatus.FAILED, error_type=error_type, error_message=message, **others)

    @classmethod
    def of_exception(cls, action_name: str, exc: BaseException) -> Self:
        """A failed one with the name and the text of an error, and what it says of another attempt."""
        retryable = getattr(exc, "retryable", None)
        if not isinstance(retryable, bool):
            retryable = isinstance(exc, ConnectionError | TimeoutError)
        after = getattr(exc, "retry_after", None)
        return cls.failure(
            action_name,
            type(exc).__name__,
            str(exc),
            retryable=retryable,
            retry_after=float(after) if isinstance(after, int | float) else None,
        )

    @property
    def success(self) -> bool:
        return self.status is ActionStatus.COMPLETED

    @property
    def action_id(self) -> str:
        return self.action_name

    @property
    def data(self) -> Any:
        return self.response_data

    def to_dict(self) -> dict[str, Any]:
        """The result by field; moments in ISO 8601."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        completed = None if self.completed_at is None else self.completed_at.isoformat()
        moments = {"started_at": self.started_at.isoformat(), "completed_at": completed}
        return {**plain, **moments, "status": self.status.value, "audit_metadata": dict(self.audit_metadata)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form. Raises ``KeyError``, ``ValueError`` or ``TypeError`` for what is none."""
        given = {**data, "status": ActionStatus(data["status"])}
        for name in ("started_at", "completed_at"):
            if isinstance(given.get(name), str):
                given[name] = as_utc(datetime.fromisoformat(given[name]))
        return cls(**given)
