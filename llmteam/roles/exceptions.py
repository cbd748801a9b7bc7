"""What can go wrong with orchestration.

::

    LLMTeamError
    └── RolesError
        ├── InvalidRuleError            a rule cannot be used, or cannot be stored
        ├── InvalidOrchestrationError   an orchestrator is given what it cannot work with
        ├── AgentResultError            an agent returned what is no state
        └── OrchestrationLimitError     a run takes more decisions or retries than it may
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class RolesError(LLMTeamError):
    """Root of the errors of :mod:`llmteam.roles`."""

    retryable = False


class InvalidRuleError(RolesError, ValueError):
    """A rule cannot be used or stored; ``path`` is where it stands, like ``rules[2].when``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class InvalidOrchestrationError(RolesError, ValueError):
    """An orchestrator, a decision or a context is made of what it cannot work with."""


class AgentResultError(RolesError, TypeError):
    """An agent's ``process`` returned something other than a mapping to merge into the state."""

    def __init__(self, agent: str, found: str) -> None:
        super().__init__(f"Agent '{agent}' returned a {found}: return a dict, whose keys are merged into the state")
        self.agent = agent
        self.found = found


class OrchestrationLimitError(RolesError):
    """A run was stopped at a bound; ``what`` is "decisions" or "retries"."""

    def __init__(self, pipeline_id: str, run_id: str, what: str, limit: int) -> None:
        super().__init__(
            f"Run '{run_id}' of pipeline '{pipeline_id}' took more than {limit:,} {what}: have its strategy end the "
            "run, or allow more when the orchestrator is made"
        )
        self.pipeline_id = pipeline_id
        self.run_id = run_id
        self.what = what
        self.limit = limit
