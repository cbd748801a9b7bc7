"""JSON workflow segments as durable, tenant-isolated runs on Celery, Redis and Postgres.

The public names of the packages can be imported from here too. Each loads on first use (PEP 562), so that
``import llmteam`` stays cheap and needs no server library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmteam.actions import *
    from llmteam.audit import *
    from llmteam.canvas import *
    from llmteam.context import *
    from llmteam.errors import *
    from llmteam.events import *
    from llmteam.execution import *
    from llmteam.human import *
    from llmteam.licensing import *
    from llmteam.persistence import *
    from llmteam.ratelimit import *
    from llmteam.roles import *
    from llmteam.runtime import *
    from llmteam.tenancy import *

__version__ = "2.0.0"

# Module -> the names that it gives to this package.
_NAMES = {
    "actions": "ActionConfig ActionContext ActionExecutor ActionRegistry ActionResult ActionStatus ActionType",
    "audit": (
        "AuditEventType AuditQuery AuditRecord AuditReport AuditSeverity AuditStore AuditTrail MemoryAuditStore "
        "TenantAwareAuditTrail"
    ),
    "canvas": (
        "CanvasError EdgeDefinition HumanTaskHandler InvalidConditionError InvalidStepConfigError PortDefinition "
        "PortSpec Ports RunConfig SegmentClient SegmentDefinition SegmentParams SegmentResult SegmentRunner "
        "SegmentSnapshot SegmentStatus "
        "SegmentValidationError SegmentValidator StepCatalog StepCategory StepDefinition StepHandler StepPosition "
        "StepTypeMetadata StepTypeNotFoundError StepUIMetadata ValidationMessage ValidationResult ValidationSeverity "
        "create_human_task_handler step_type validate_segment validate_segment_dict"
    ),
    "context": (
        "ContextAccessPolicy ContextManager ContextPropagationConfig ContextScope HierarchicalContext SealedData "
        "SecureAgentContext SensitivityLevel VisibilityLevel"
    ),
    "errors": "ConfigurationError InfrastructureError LLMTeamError NotJSONError PayloadTooLargeError",
    "events": "ErrorInfo EventEmitter EventSeverity EventStore EventStream EventType MemoryEventStore WorktrailEvent",
    "execution": "ExecutionMode ExecutionStats ExecutorConfig PipelineExecutor TaskResult",
    "human": (
        "HumanInteractionManager InteractionPriority InteractionRequest InteractionResponse InteractionStatus "
        "InteractionType MemoryInteractionStore"
    ),
    "licensing": (
        "FeatureNotLicensedError License LicenseExpiredError LicenseLimits LicenseManager LicenseTier "
        "LicenseValidationError activate enterprise_only get_license_manager get_tier has_feature "
        "print_license_status professional_only"
    ),
    "persistence": (
        "AgentSnapshot MemorySnapshotStore PersistenceError PipelinePhase PipelineSnapshot RestoreResult "
        "SnapshotManager SnapshotType"
    ),
    "ratelimit": (
        "CircuitBreakerConfig CircuitState RateLimitConfig RateLimitStrategy RateLimitedExecutor RateLimiter "
        "register_limit"
    ),
    "roles": (
        "ContentBasedRoutingStrategy GroupDecisionType GroupOrchestrationDecision GroupOrchestrationStrategy "
        "GroupOrchestrator LLMBasedStrategy LoadBalancingStrategy OrchestrationContext OrchestrationDecision "
        "OrchestrationStrategy OrchestratorRole ParallelFanOutStrategy PipelineOrchestrator PipelineStatus "
        "ProcessEvent ProcessMetrics ProcessMiningEngine ProcessModel RuleBasedStrategy"
    ),
    "runtime": (
        "Client ClientRegistry LLMProvider LLMRegistry ResourceNotFoundError RuntimeContext RuntimeContextError "
        "RuntimeContextManager SecretAccessDeniedError SecretsProvider StepContext Store StoreRegistry "
        "current_runtime get_current_runtime"
    ),
    "tenancy": "TenantConfig TenantContext TenantLimits TenantManager TenantTier current_tenant",
}

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
