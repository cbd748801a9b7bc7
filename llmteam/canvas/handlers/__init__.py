"""The handlers of the built-in step types.

Importing them loads no HTTP or model library; those come with the first request.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmteam.canvas.handlers.action import take_action
from llmteam.canvas.handlers.ai import LLMAgentHandler
from llmteam.canvas.handlers.flow import condition, parallel_join, parallel_split, transform
from llmteam.canvas.handlers.http import HttpActionHandler
from llmteam.canvas.handlers.human_task import HumanTaskHandler, ask_person, create_human_task_handler
from llmteam.canvas.handlers.team import TeamHandler
from llmteam.canvas.ports import StepHandler

__all__ = [
    "BUILTIN_HANDLERS",
    "HttpActionHandler",
    "HumanTaskHandler",
    "LLMAgentHandler",
    "TeamHandler",
    "ask_person",
    "condition",
    "create_human_task_handler",
    "parallel_join",
    "parallel_split",
    "take_action",
    "transform",
]

BUILTIN_HANDLERS: Mapping[str, StepHandler] = {
    "llm_agent": LLMAgentHandler(),
    "team": TeamHandler(),
    "http_action": HttpActionHandler(),
    "action": take_action,
    "human_task": ask_person,
    "condition": condition,
    "transform": transform,
    "parallel_split": parallel_split,
    "parallel_join": parallel_join,
}
