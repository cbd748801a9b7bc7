"""Orchestration: who of several agents works next, which pipeline takes an input, and what is mined of it."""

from llmteam.mining import ProcessEvent, ProcessMetrics, ProcessMiningEngine, ProcessModel
from llmteam.roles.exceptions import (
    AgentResultError,
    InvalidOrchestrationError,
    InvalidRuleError,
    OrchestrationLimitError,
    RolesError,
)
from llmteam.roles.group import GroupOrchestrator
from llmteam.roles.group_strategies import (
    ContentBasedRoutingStrategy,
    GroupOrchestrationStrategy,
    LoadBalancingStrategy,
    ParallelFanOutStrategy,
)
from llmteam.roles.model_strategy import LLMBasedStrategy
from llmteam.roles.models import (
    GroupDecisionType,
    GroupOrchestrationDecision,
    OrchestrationContext,
    OrchestrationDecision,
    OrchestratorRole,
    PipelineStatus,
)
from llmteam.roles.pipeline import PipelineOrchestrator
from llmteam.roles.rules import DecisionRule
from llmteam.roles.strategies import OrchestrationStrategy, RuleBasedStrategy

__all__ = [
    "AgentResultError",
    "ContentBasedRoutingStrategy",
    "DecisionRule",
    "GroupDecisionType",
    "GroupOrchestrationDecision",
    "GroupOrchestrationStrategy",
    "GroupOrchestrator",
    "InvalidOrchestrationError",
    "InvalidRuleError",
    "LLMBasedStrategy",
    "LoadBalancingStrategy",
    "OrchestrationContext",
    "OrchestrationDecision",
    "OrchestrationLimitError",
    "OrchestrationStrategy",
    "OrchestratorRole",
    "ParallelFanOutStrategy",
    "PipelineOrchestrator",
    "PipelineStatus",
    "ProcessEvent",
    "ProcessMetrics",
    "ProcessMiningEngine",
    "ProcessModel",
    "RolesError",
    "RuleBasedStrategy",
]
