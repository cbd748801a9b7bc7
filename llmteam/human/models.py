"""Requests to people and their answers, as values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from llmteam import codec
from llmteam.ids import as_utc, utc_now


class InteractionType(StrEnum):
    """What a person is asked for."""

    APPROVAL = "approval"
    CHOICE = "choice"
    INPUT = "input"
    REVIEW = "review"
    CHAT = "chat"
    TASK = "task"


class InteractionStatus(StrEnum):
    """Where a request stands. The first three and ESCALATED are open, the others final."""

    PENDING = "pending"
    NOTIFIED = "notified"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ESCALATED = "escalated"

    @property
    def is_open(self) -> bool:
        return self in _OPEN


_OPEN = frozenset(
    {
        InteractionStatus.PENDING,
        InteractionStatus.NOTIFIED,
        InteractionStatus.IN_PROGRESS,
        InteractionStatus.ESCALATED,
    }
)


class InteractionPriority(StrEnum):
    """How urgent a request is."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


Moment = Annotated[datetime, AfterValidator(as_utc)]


def _duration(value: object) -> object:
    if not isinstance(value, int | float):
        return value
    try:
        return timedelta(seconds=value)
    except OverflowError:
        raise ValueError("no duration can be that long") from None


#: A duration that JSON carries as seconds.
Seconds = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(lambda value: value.total_seconds(), return_type=float, when_used="json"),
]

#: How long a person has, unless the request says otherwise.
DEFAULT_TIMEOUT = timedelta(hours=24)


class InteractionRequest(BaseModel):
    """What is asked of whom, until when, and where that stands. Frozen: rules and stores give changed copies.

    Beside the fields of the contract: ``visit`` is the step's visit; ``parked`` says that a step waits for the answer.
    ``quorum`` is how many of ``approvers`` (empty: of those who may answer) have to approve; whoever an approver or an
    escalation hands it to counts as one. With ``four_eyes`` the one who started the run, ``requester_id``, may not
    answer. ``reminder`` is the interval of reminders, ``reminded``
    how many went out, ``warned`` and ``breached`` say that the SLA thresholds were told. ``claimed_by`` is who works on
    it. ``frozen_at`` is since when the run stands still; ``stood`` for how long it did before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    interaction_type: InteractionType
    run_id: str
    pipeline_id: str
    agent_name: str
    step_name: str
    tenant_id: str
    title: str
    description: str
    context_data: dict[str, Any] = Field(default_factory=dict)
    options: list[dict[str, Any]] = Field(default_factory=list)
    input_schema: dict[str, Any] | None = None
    assignee_id: str | None = None
    assignee_group: str | None = None
    priority: InteractionPriority = InteractionPriority.NORMAL
    timeout: Seconds = DEFAULT_TIMEOUT
    deadline: Moment | None = None
    sla_warning: Seconds | None = None
    sla_breach: Seconds | None = None
    status: InteractionStatus = InteractionStatus.PENDING
    created_at: Moment = Field(default_factory=utc_now)
    updated_at: Moment | None = None
    escalation_chain: list[str] = Field(default_factory=list)
    current_escalation_level: int = 0
    visit: int = 1
    parked: bool = False
    quorum: int = Field(default=1, ge=1)
    approvers: list[str] = Field(default_factory=list)
    four_eyes: bool = False
    requester_id: str = ""
    reminder: Seconds | None = None
    reminded: int = 0
    warned: bool = False
    breached: bool = False
    claimed_by: str | None = None
    frozen_at: Moment | None = None
    stood: Seconds = timedelta()

    @property
    def message(self) -> str:
        """The description, or the title when there is none."""
        return self.description or self.title

    @property
    def shown_hash(self) -> str:
        """Digest of all that the person decides on: an answer holds for what was shown, not for what came after."""
        shown = [self.title, self.description, self.context_data, self.options, self.input_schema]
        return codec.digest(codec.canonical([self.interaction_type.value, *shown]))

    def changed(self, **fields: Any) -> Self:
        """A copy with these fields."""
        return self.model_copy(update=fields, deep=False)

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON: enums as values, durations as seconds, moments in ISO 8601."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form. Raises pydantic's ``ValidationError``, a ``ValueError``."""
        return cls.model_validate(dict(data))


class InteractionResponse(BaseModel):
    """What a person answered. ``shown_hash`` is that of what they saw, if it is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    responder_id: str
    approved: bool | None = None
    selected_option: str | None = None
    input_data: dict[str, Any] = Field(default_factory=dict)
    review_changes: dict[str, Any] = Field(default_factory=dict)
    response_time: Moment = Field(default_factory=utc_now)
    comment: str = ""
    reason: str = ""
    shown_hash: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form. Raises pydantic's ``ValidationError``, a ``ValueError``."""
        return cls.model_validate(dict(data))


class InteractionMessage(BaseModel):
    """One message of a chat; ``seq`` counts from 1 without gaps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    seq: int
    sender_id: str
    text: str
    sent_at: Moment

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON."""
        return self.model_dump(mode="json")


class NotificationKind(StrEnum):
    """What a notification tells its recipients."""

    REQUESTED = "requested"
    ASSIGNED = "assigned"
    REMINDER = "reminder"
    ESCALATED = "escalated"
    SLA_WARNING = "sla_warning"
    SLA_BREACH = "sla_breach"
    CHANGED = "changed"
    TIMED_OUT = "timed_out"


class NotificationConfig(BaseModel):
    """Which channels a manager sets up. A channel that is enabled and lacks its address is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    email_enabled: bool = True
    slack_enabled: bool = False
    teams_enabled: bool = False
    webhook_enabled: bool = False
    slack_channel: str = ""
    slack_webhook_url: str = ""
    teams_webhook_url: str = ""
    custom_webhook_url: str = ""
    email_template: str = ""
    slack_template: str = ""
