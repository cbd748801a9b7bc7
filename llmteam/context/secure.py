"""The context of one agent: what others see of it is decided by its policy, what is sealed only the agent reads."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any

from llmteam.audit.models import AuditEventType
from llmteam.context.auditing import AccessTrail, find_trail, tell
from llmteam.context.exceptions import (
    ContextAccessError,
    EncryptionRequiredError,
    InvalidContextError,
    SealedDataAccessError,
    UnknownSealedFieldError,
)
from llmteam.context.policy import ROLE_AGENT, Ancestor, ContextAccessPolicy, ContextAccessResult, SensitivityLevel
from llmteam.context.sealed import SealedData, process_vault
from llmteam.crypto import CryptoError, Vault
from llmteam.errors import ConfigurationError
from llmteam.ids import utc_now
from llmteam.masking import never_logged, redact_in, texts_in, without
from llmteam.tenancy.context import get_current_tenant

#: Sensitivities of which an orchestrator also sees how the agent reasons.
_SHOWS_REASONING = frozenset({SensitivityLevel.PUBLIC, SensitivityLevel.INTERNAL})
#: What no copy and no pickle of a context takes along: each holds live objects.
_LIVE = ("_vault", "_audit_trail", "_ancestors", "_on_texts")
#: Where free text stands, in which a sealed text may stand by mistake.
_FREE = ("status", "last_action", "reasoning_steps", "sources", "messages", "data")


#: Told the texts of sealed values.
OnTexts = Callable[[set[str]], object]


def nobody(texts: set[str]) -> None:
    """Tell nobody."""


@dataclass(eq=False, repr=False)
class SecureAgentContext:
    """What an agent knows and says of itself.

    ``agent_id`` owns it. ``tenant_id`` and ``run_id`` say where it belongs: while another tenant is current, nothing of
    it is seen. Everything that is not sealed is shown in clear to whom the policy lets; where a sealed text stands in
    it by mistake, others see ``***`` in its place.
    """

    agent_id: str
    agent_name: str
    confidence: float = 0.0
    status: str = "idle"
    error_count: int = 0
    last_action: str = ""
    reasoning_steps: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    _sealed: dict[str, SealedData] = field(default_factory=dict)
    access_policy: ContextAccessPolicy = field(default_factory=ContextAccessPolicy)
    _audit_trail: AccessTrail | None = None
    created_at: datetime = field(default_factory=utc_now)
    updated_at: datetime = field(default_factory=utc_now)
    _: KW_ONLY
    tenant_id: str = field(default_factory=get_current_tenant)
    run_id: str = ""
    #: Whom the runtime has opened it for; nobody else is believed to be the owner then.
    _principal: str | None = None
    _vault: Vault | None = None
    _ancestors: Callable[[], Sequence[Ancestor]] = field(default=tuple, init=False)
    _on_texts: OnTexts = field(default_factory=lambda: nobody, init=False)
    #: Whether it is the very object that the agent made, and no copy.
    _is_original: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self.confidence = _confidence(self.confidence)
        for key in self._sealed:
            self.access_policy.seal_field(key)

    def __repr__(self) -> str:
        return (
            f"SecureAgentContext(agent_id={self.agent_id!r}, agent_name={self.agent_name!r}, "
            f"sensitivity={self.access_policy.sensitivity.value!r}, sealed_fields={self.sealed_names!r})"
        )

    # -- what is sealed

    def set_sealed(self, key: str, value: Any, encrypt: bool = False) -> None:
        """Seal a JSON value under a name, which is sealed in the policy from now on.

        ``encrypt`` asks for the tenant's key; so do ``encrypt_sealed`` of the policy, and TOP_SECRET. Raises
        :class:`EncryptionRequiredError` without one, :class:`NotJSONError` for a value that is no JSON.
        """
        vault = self._vault or process_vault()
        policy = self.access_policy
        needed = encrypt or policy.encrypt_sealed or policy.sensitivity is SensitivityLevel.TOP_SECRET
        if needed and not vault.durable:
            raise EncryptionRequiredError(key)
        self._handled(texts_in(value))
        sealed = SealedData(value, self.agent_id, vault=vault, place=self._place(key))
        self.data.pop(key, None)
        self._sealed[key] = sealed
        policy.seal_field(key)
        self._touch()

    def get_sealed(self, key: str, requester_id: str | None = None) -> Any:
        """The sealed value; its texts mask themselves where they are shown. In a step, ``requester_id`` may be omitted.

        The access is audited first, refused ones too, and nothing is given when that fails. Raises
        :class:`UnknownSealedFieldError`, :class:`SealedDataAccessError`, :class:`CryptoError` kinds.
        """
        sealed = self._owned(key, requester_id)
        self._tell(AuditEventType.SEALED_DATA_ACCESSED, self.agent_id, ROLE_AGENT, key)
        value = sealed.get(self.agent_id)
        self._handled(texts_in(value))
        return value

    def _handled(self, texts: set[str]) -> None:
        never_logged.add(texts)
        self._on_texts(texts)

    def has_sealed(self, key: str) -> bool:
        return key in self._sealed

    def list_sealed_keys(self) -> list[str]:
        """The names, not the values."""
        return list(self._sealed)

    def delete_sealed(self, key: str, requester_id: str | None = None) -> None:
        """Forget a sealed value and unseal its name; an unknown one is ignored. Raises as :meth:`get_sealed`."""
        if key not in self._sealed:
            return
        self._owned(key, requester_id)
        del self._sealed[key]
        self.access_policy.unseal_field(key)
        self._touch()

    def _owned(self, key: str, requester_id: str | None) -> SealedData:
        requester = self._requester(requester_id)
        if key not in self._sealed:
            raise UnknownSealedFieldError(key)
        if requester != self.agent_id or self._is_foreign():
            self._tell(AuditEventType.ACCESS_DENIED, requester, ROLE_AGENT, key, "sealed data is its owner's alone")
            raise SealedDataAccessError(self.agent_id, requester, key)
        return self._sealed[key]

    def _requester(self, requester_id: str | None) -> str:
        """Who asks: in a step the step itself, whatever it says; elsewhere who the caller says it is."""
        if self._principal is None or requester_id in (None, self._principal):
            return requester_id or self._principal or ""
        return f"{self._principal} as {requester_id}"

    def use_vault(self, vault: Vault) -> None:
        """Encrypt what is sealed, and what will be, with this vault. Raises when something sealed does not open."""
        self._sealed = {key: sealed.moved(vault, self._place(key)) for key, sealed in self._sealed.items()}
        self._vault = vault

    def _place(self, key: str) -> tuple[str, ...]:
        return (self.tenant_id, self.run_id, self.agent_id, key)

    # -- what others see

    def get_visible_context(self, viewer_id: str, viewer_role: str) -> dict[str, Any]:
        """What this viewer may see, as copies: nothing sealed, no messages; of a refusal only that, and why.

        The owner sees everything but sealed values. Audited when the policy says so, refusals always.
        """
        reason = self._refusal(viewer_id, viewer_role)
        owner = reason is None and viewer_role == ROLE_AGENT
        if reason is not None:
            self._tell(AuditEventType.ACCESS_DENIED, viewer_id, viewer_role, reason=reason)
            return {"agent_id": self.agent_id, "agent_name": self.agent_name, "access": "denied", "reason": reason}
        if self.access_policy.audit_access or self.access_policy.require_audit:
            self._tell(AuditEventType.CONTEXT_ACCESSED, viewer_id, viewer_role)
        view = self._shown(("status", "confidence", "error_count", "last_action"))
        if owner or self.access_policy.sensitivity in _SHOWS_REASONING:
            view |= self._shown(("reasoning_steps", "sources"))
        if owner:
            view |= self._shown(("messages",))
        if self.data:
            view |= self._shown(("data",))
        return {
            "agent_id": self.agent_id,
            "agent_name": self.agent_name,
            **self.covered(view),
            "updated_at": self.updated_at.isoformat(),
            "sealed_fields": self.sealed_names,
        }

    def _shown(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: copy.deepcopy(getattr(self, name)) for name in names}

    def _refusal(self, viewer_id: str, viewer_role: str) -> str | None:
        if self._is_foreign():
            return "the context is another tenant's"
        if viewer_id == self.agent_id and viewer_role == ROLE_AGENT and self._principal in (None, viewer_id):
            return None
        allowed, reason = self.access_policy.can_access(viewer_id, viewer_role, ancestors=self._ancestors())
        return None if allowed else reason

    def _is_foreign(self) -> bool:
        current = get_current_tenant()
        return bool(self.tenant_id and current and current != self.tenant_id)

    @property
    def sealed_names(self) -> list[str]:
        """Every sealed name, with a value or without, in order."""
        return sorted({*self.access_policy.sealed_fields, *self._sealed})

    def covered(self, value: Any) -> Any:
        """A copy of a JSON value as others may see it: without sealed names at any depth, sealed texts masked."""
        names = {*self.access_policy.sealed_fields, *self._sealed}
        return redact_in(without(value, names), self._sealed_texts())

    def _sealed_texts(self) -> set[str]:
        try:
            return {text for sealed in self._sealed.values() for text in sealed.texts()}
        except (CryptoError, ConfigurationError):
            # Whoever has no key cannot compare; what was stored was covered when it was written.
            return set()

    def check_access(
        self, viewer_id: str, viewer_role: str, fields: Iterable[str] | None = None
    ) -> ContextAccessResult:
        """Whether this viewer may see some fields, or the context; refusals are audited."""
        wanted = set(fields or ())
        ancestors = self._ancestors()
        result = self.access_policy.check_access(viewer_id, viewer_role, wanted, ancestors=ancestors)
        if self._is_foreign():
            result = ContextAccessResult(False, "the context is another tenant's", set(), wanted)
        if not result.allowed:
            denied = ",".join(sorted(result.fields_denied))
            self._tell(AuditEventType.ACCESS_DENIED, viewer_id, viewer_role, denied or None, result.reason)
        return result

    def _tell(
        self, event_type: AuditEventType, viewer_id: str, viewer_role: str, key: str | None = None, reason: str = ""
    ) -> None:
        policy = self.access_policy
        trail = find_trail(
            self._audit_trail, wanted=policy.audit_access, required=policy.require_audit, viewer_id=viewer_id
        )
        if trail is not None:
            tell(
                trail,
                event_type,
                viewer_id=viewer_id,
                viewer_role=viewer_role,
                resource_type="agent_context" if key is None else "sealed_data",
                resource_id=self.agent_id if key is None else f"{self.agent_id}:{key}",
                run_id=self.run_id,
                reason=reason,
            )

    # -- the policy

    def deny_access_to(self, viewer_id: str, *, requester_id: str | None = None) -> None:
        """As :meth:`ContextAccessPolicy.deny_access_to`; audited."""
        self._change_policy(requester_id, {"denied": viewer_id})
        self.access_policy.deny_access_to(viewer_id)

    def allow_access_to(self, viewer_id: str, *, requester_id: str | None = None) -> None:
        """As :meth:`ContextAccessPolicy.allow_access_to`; audited."""
        self._change_policy(requester_id, {"allowed": viewer_id})
        self.access_policy.allow_access_to(viewer_id)

    def set_sensitivity(self, level: SensitivityLevel, *, requester_id: str | None = None) -> None:
        """As :meth:`ContextAccessPolicy.set_sensitivity`; audited."""
        self._change_policy(requester_id, {"sensitivity": SensitivityLevel(level).value})
        self.access_policy.set_sensitivity(level)

    def _change_policy(self, requester_id: str | None, change: dict[str, str]) -> None:
        """Write a change down before it is made. Raises :class:`ContextAccessError` unless the owner asks for it."""
        who = self._requester(requester_id) or self.agent_id
        if who != self.agent_id:
            self._tell(AuditEventType.ACCESS_DENIED, who, ROLE_AGENT, reason="the policy is its owner's to change")
            raise ContextAccessError(f"the policy of '{self.agent_id}' is its owner's to change", who)
        policy = self.access_policy
        trail = find_trail(self._audit_trail, wanted=False, required=policy.require_audit, viewer_id=who)
        if trail is not None:
            trail.log_sync(
                AuditEventType.POLICY_CHANGED,
                actor_id=who,
                actor_type=ROLE_AGENT,
                action="update",
                resource_type="agent_context",
                resource_id=self.agent_id,
                run_id=self.run_id,
                new_value=change,
            )
        self._touch()

    # -- what is not sealed

    def update_status(self, status: str) -> None:
        self.status = status
        self._touch()

    def update_confidence(self, confidence: float) -> None:
        """From 0 to 1; what is beyond is cut. Raises :class:`InvalidContextError` for what is no finite number."""
        self.confidence = _confidence(confidence)
        self._touch()

    def add_reasoning_step(self, step: str) -> None:
        self.reasoning_steps.append(step)
        self._touch()

    def add_source(self, source: str) -> None:
        self.sources.append(source)
        self._touch()

    def add_message(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._touch()

    def increment_error_count(self) -> None:
        self.error_count += 1
        self._touch()

    def set_data(self, key: str, value: Any) -> None:
        """Keep data that is not sealed. Raises :class:`InvalidContextError` for a sealed name."""
        if key in self._sealed or key in self.access_policy.sealed_fields:
            raise InvalidContextError(f"the field '{key[:80]}' is sealed: write it with set_sealed")
        self.data[key] = value
        self._touch()

    def get_data(self, key: str, default: Any = None) -> Any:
        return self.data.get(key, default)

    def _touch(self) -> None:
        self.updated_at = utc_now()

    # -- crossing processes

    def to_dict(self, include_sealed: bool = False, *, requester_id: str | None = None) -> dict[str, Any]:
        """Everything that is not sealed as JSON; with ``include_sealed`` the sealed values too, under ``_sealed``.

        These are for the owner: ``requester_id``, which may be omitted for the object that the agent made itself, but
        not for a copy. Each is audited. Raises as :meth:`get_sealed`.
        """
        document = {
            "agent_id": self.agent_id,
            "agent_name": self.agent_name,
            "confidence": self.confidence,
            "error_count": self.error_count,
            **self.covered(self._shown(_FREE)),
            "sealed_fields": self.sealed_names,
            "access_policy": self.access_policy.to_dict(),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "tenant_id": self.tenant_id,
            "run_id": self.run_id,
        }
        if include_sealed:
            implied = self.agent_id if self._principal is None and self._is_original else None
            requester = requester_id or implied
            document["_sealed"] = {key: self.get_sealed(key, requester) for key in self._sealed}
        return document

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles: sealed values stay encrypted, live objects stay behind."""
        state = {name: value for name, value in self.__dict__.items() if name not in _LIVE}
        return {**state, **self.covered({name: getattr(self, name) for name in _FREE}), "_is_original": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _vault=None, _audit_trail=None, _ancestors=tuple, _on_texts=nobody)

    def __deepcopy__(self, memo: dict[int, Any]) -> SecureAgentContext:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        live = {name: getattr(self, name) for name in _LIVE}
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo), **live)
        return made

    def __copy__(self) -> SecureAgentContext:
        return copy.deepcopy(self)


def _confidence(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidContextError("confidence has to be a finite number")
    return min(1.0, max(0.0, float(value)))


def create_secure_context(
    agent_id: str,
    agent_name: str,
    sensitivity: SensitivityLevel = SensitivityLevel.INTERNAL,
    sealed_fields: Iterable[str] | None = None,
    audit_access: bool = False,
    audit_trail: AccessTrail | None = None,
) -> SecureAgentContext:
    """A context with a policy of these choices."""
    policy = ContextAccessPolicy(sensitivity=sensitivity, sealed_fields=sealed_fields or (), audit_access=audit_access)
    return SecureAgentContext(agent_id, agent_name, access_policy=policy, _audit_trail=audit_trail)
