"""Who may see what of a context, and why not. Pure.

Agents never see each other; an orchestrator sees the agents below it, as far as their sensitivity lets it; nobody but
the owner sees a sealed value. What is not allowed here is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self


class VisibilityLevel(StrEnum):
    """How far up a context can be seen. There is no level for peers."""

    SELF_ONLY = "self_only"
    ORCHESTRATOR = "orchestrator"
    HIERARCHY = "hierarchy"


class SensitivityLevel(StrEnum):
    """How much harm it would do if others saw a context, from PUBLIC (least) to TOP_SECRET."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    SECRET = "secret"  # noqa: S105
    TOP_SECRET = "top_secret"  # noqa: S105


class ContextScope(StrEnum):
    """Whose context it is: an agent's, a pipeline's with its agents, a group's with its pipelines."""

    AGENT = "agent"
    PIPELINE = "pipeline"
    GROUP = "group"


ROLE_AGENT = "agent"
ROLE_PIPELINE_ORCH = "pipeline_orch"
ROLE_GROUP_ORCH = "group_orch"
ROLE_SYSTEM = "system"
ROLES = frozenset({ROLE_AGENT, ROLE_PIPELINE_ORCH, ROLE_GROUP_ORCH, ROLE_SYSTEM})

#: The scope of the context that an orchestrator of this role stands for.
SCOPE_OF_ROLE = {ROLE_PIPELINE_ORCH: ContextScope.PIPELINE, ROLE_GROUP_ORCH: ContextScope.GROUP}

#: The widest visibility of each sensitivity.
SENSITIVITY_VISIBILITY_MAP = {
    SensitivityLevel.PUBLIC: VisibilityLevel.HIERARCHY,
    SensitivityLevel.INTERNAL: VisibilityLevel.ORCHESTRATOR,
    SensitivityLevel.CONFIDENTIAL: VisibilityLevel.ORCHESTRATOR,
    SensitivityLevel.SECRET: VisibilityLevel.SELF_ONLY,
    SensitivityLevel.TOP_SECRET: VisibilityLevel.SELF_ONLY,
}
_WIDTH = {level: width for width, level in enumerate(VisibilityLevel)}


def get_visibility_for_sensitivity(sensitivity: SensitivityLevel) -> VisibilityLevel:
    """The widest visibility that this sensitivity permits."""
    return SENSITIVITY_VISIBILITY_MAP[SensitivityLevel(sensitivity)]


def is_visibility_allowed(requested: VisibilityLevel, sensitivity: SensitivityLevel) -> bool:
    """Whether ``requested`` is no wider than the sensitivity permits."""
    return _WIDTH[VisibilityLevel(requested)] <= _WIDTH[get_visibility_for_sensitivity(sensitivity)]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A context above another one."""

    context_id: str
    scope: ContextScope


@dataclass
class ContextAccessResult:
    """What was decided, and about which fields."""

    allowed: bool
    reason: str
    fields_granted: set[str] = field(default_factory=set)
    fields_denied: set[str] = field(default_factory=set)


class ContextAccessPolicy:
    """Who may see a context beside its owner.

    Args:
        default_visibility: how far up it can be seen; what counts is the narrower of this and the sensitivity's own.
        denied_viewers: ids that may see nothing.
        allowed_viewers: ids to which ``denied_viewers`` does not apply; they gain nothing else by it.
        sealed_fields: names that only the owner may read, at any depth of the context's data.
        sensitivity: see the module's table of roles.
        audit_access: whether views are audited; reads of sealed values and refusals are, wherever there is a trail.
        encrypt_sealed: whether sealed values must be encrypted with the tenant's key, and be refused without one.
        require_audit: whether access is refused where there is no audit trail to tell.

    The sets can be looked at; they are changed by the methods. Raises ``ValueError`` for an unknown level.
    """

    def __init__(
        self,
        default_visibility: VisibilityLevel = VisibilityLevel.ORCHESTRATOR,
        denied_viewers: Iterable[str] = (),
        allowed_viewers: Iterable[str] = (),
        sealed_fields: Iterable[str] = (),
        sensitivity: SensitivityLevel = SensitivityLevel.INTERNAL,
        audit_access: bool = False,
        encrypt_sealed: bool = False,
        *,
        require_audit: bool = False,
    ) -> None:
        self.default_visibility = VisibilityLevel(default_visibility)
        self._denied = _names("denied_viewers", denied_viewers)
        self._allowed = _names("allowed_viewers", allowed_viewers)
        self._sealed = _names("sealed_fields", sealed_fields)
        self._sensitivity = SensitivityLevel(sensitivity)
        self.audit_access = audit_access
        self.encrypt_sealed = encrypt_sealed
        self.require_audit = require_audit

    @property
    def denied_viewers(self) -> frozenset[str]:
        return frozenset(self._denied)

    @property
    def allowed_viewers(self) -> frozenset[str]:
        return frozenset(self._allowed)

    @property
    def sealed_fields(self) -> frozenset[str]:
        return frozenset(self._sealed)

    @property
    def sensitivity(self) -> SensitivityLevel:
        return self._sensitivity

    @property
    def visibility(self) -> VisibilityLevel:
        """How far up the context can be seen: the narrower of ``default_visibility`` and the sensitivity's own."""
        return min(self.default_visibility, get_visibility_for_sensitivity(self._sensitivity), key=_WIDTH.__getitem__)

    def can_access(
        self, viewer_id: str, viewer_role: str, field_name: str | None = None, *, ancestors: Sequence[Ancestor] = ()
    ) -> tuple[bool, str]:
        """Whether somebody other than the owner may see the context, or one field of it, and why.

        ``ancestors`` are the contexts above it, nearest first. Where there are any, an orchestrator has to be one of
        them; without any, its role decides alone.
        """
        reason = self._refusal(viewer_id, viewer_role, field_name, ancestors)
        return (True, "access allowed") if reason is None else (False, reason)

    def _refusal(
        self, viewer_id: str, viewer_role: str, field_name: str | None, ancestors: Sequence[Ancestor]
    ) -> str | None:
        if viewer_role == ROLE_AGENT:
            return "agents are forbidden to see each other's contexts"
        if viewer_role not in ROLES:
            return "this role is not known, so it may see nothing"
        if field_name is not None and field_name in self._sealed:
            return f"the field '{field_name}' is sealed: its owner alone may read it"
        if viewer_id in self._denied and viewer_id not in self._allowed:
            return "this viewer is denied"
        if self.visibility is VisibilityLevel.SELF_ONLY:
            return f"a context that is {self._own_only()} is its owner's alone"
        if self._sensitivity is SensitivityLevel.CONFIDENTIAL and viewer_role not in (ROLE_PIPELINE_ORCH, ROLE_SYSTEM):
            return "a confidential context is for its pipeline's orchestrator"
        if ancestors and viewer_role != ROLE_SYSTEM:
            return self._not_above(viewer_id, viewer_role, ancestors)
        return None

    def _own_only(self) -> str:
        widest = get_visibility_for_sensitivity(self._sensitivity)
        return str((self._sensitivity if widest is VisibilityLevel.SELF_ONLY else self.default_visibility).value)

    def _not_above(self, viewer_id: str, viewer_role: str, ancestors: Sequence[Ancestor]) -> str | None:
        """Why this is no orchestrator that may look from where it stands; None when it is one."""
        wanted = Ancestor(viewer_id, SCOPE_OF_ROLE[viewer_role])
        if wanted not in ancestors:
            return "this is not an orchestrator above the context"
        if ancestors[0] != wanted and self.visibility is not VisibilityLevel.HIERARCHY:
            return "the context is for the orchestrator directly above it"
        return None

    def check_access(
        self,
        viewer_id: str,
        viewer_role: str,
        requested_fields: Iterable[str] | None = None,
        *,
        ancestors: Sequence[Ancestor] = (),
    ) -> ContextAccessResult:
        """Whether all of some fields may be seen, and which of them. Without fields: whether the context may."""
        wanted = set(requested_fields or ())
        allowed, reason = self.can_access(viewer_id, viewer_role, ancestors=ancestors)
        if not allowed:
            return ContextAccessResult(False, reason, set(), wanted)
        denied = {name for name in wanted if not self.can_access(viewer_id, viewer_role, name, ancestors=ancestors)[0]}
        if denied:
            return ContextAccessResult(False, "some of the fields are sealed", wanted - denied, denied)
        return ContextAccessResult(True, reason, wanted, set())

    def deny_access_to(self, viewer_id: str) -> None:
        """Let this viewer see nothing from now on."""
        self._denied.add(viewer_id)
        self._allowed.discard(viewer_id)

    def allow_access_to(self, viewer_id: str) -> None:
        """Undo :meth:`deny_access_to`. Other rules still hold for the viewer."""
        self._allowed.add(viewer_id)
        self._denied.discard(viewer_id)

    def seal_field(self, field_name: str) -> None:
        """Let nobody but the owner read this name."""
        self._sealed.add(field_name)

    def unseal_field(self, field_name: str) -> None:
        """Undo :meth:`seal_field`. A value that is sealed stays sealed."""
        self._sealed.discard(field_name)

    def set_sensitivity(self, level: SensitivityLevel) -> None:
        self._sensitivity = SensitivityLevel(level)

    def __repr__(self) -> str:
        return f"ContextAccessPolicy({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ContextAccessPolicy) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Every argument as JSON."""
        return {
            "default_visibility": self.default_visibility.value,
            "denied_viewers": sorted(self._denied),
            "allowed_viewers": sorted(self._allowed),
            "sealed_fields": sorted(self._sealed),
            "sensitivity": self._sensitivity.value,
            "audit_access": self.audit_access,
            "encrypt_sealed": self.encrypt_sealed,
            "require_audit": self.require_audit,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The policy of :meth:`to_dict`."""
        return cls(**document)


def _names(what: str, given: Iterable[str]) -> set[str]:
    if isinstance(given, str):
        raise TypeError(f"{what} has to be a collection of names, not one text")
    return set(given)
