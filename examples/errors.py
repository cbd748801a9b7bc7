"""What can go wrong with an example, besides what can go wrong with its run."""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class ExampleFailedError(LLMTeamError):
    """The run of an example did not leave behind what it should have."""

    retryable = False
