"""The nine step types that are built in."""

from __future__ import annotations

from typing import Any

from llmteam.canvas.schema_check import EXPRESSION_FORMAT, SCHEMA_FORMAT
from llmteam.canvas.step_types import DEFAULT_QUEUE, PortSpec, StepCategory, StepTypeMetadata, config_schema


def _text(description: str, **rules: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **rules}


def _names(description: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", "minLength": 1}, "description": description}


def _hours(description: str, **rules: Any) -> dict[str, Any]:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": 87_600, "description": description, **rules}


def _any_ports(*names: str) -> list[PortSpec]:
    return [PortSpec(name) for name in names]


_EXPRESSION = _text("An expression over the step's document.", format=EXPRESSION_FORMAT)

_BRANCHES = {
    "anyOf": [
        {"type": "integer", "minimum": 2, "maximum": 100_000},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2, "uniqueItems": True},
    ],
    "default": 2,
    "description": "How many branches (ports branch_1 and on), or the names of their ports.",
}

LLM_AGENT = StepTypeMetadata(
    type_id="llm_agent",
    version="1.0",
    display_name="LLM Agent",
    description="Asks a language model and hands on its answer.",
    category=StepCategory.AI,
    icon="robot",
    color="#4A90D9",
    config_schema=config_schema(
        {
            "model": _text("Name of the model, or of a provider that is registered in the runtime."),
            "llm_ref": _text("Name of the provider that is registered in the runtime."),
            "system_prompt": _text("What the model is told about its task."),
            "prompt": _text("The question; {name} stands for that key of the document."),
            "prompt_template_id": _text("Name of a prompt that is kept elsewhere."),
            "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 0.7},
            "max_tokens": {"type": "integer", "minimum": 1, "default": 1000},
            "output_schema": {
                "type": "object",
                "format": SCHEMA_FORMAT,
                "description": "JSON Schema that the answer must fit; it is then handed on as a value.",
            },
        },
        anyOf=[{"required": ["llm_ref"]}, {"required": ["model"]}],
    ),
    input_ports=[PortSpec("input", "object")],
    output_ports=[PortSpec("output", "string"), PortSpec("error", "object", required=False)],
    examples=[{"model": "gpt-4", "system_prompt": "Rate the risk 0-10"}],
)

HTTP_ACTION = StepTypeMetadata(
    type_id="http_action",
    version="1.0",
    display_name="HTTP Request",
    description="Calls an HTTP service and hands on the parsed answer.",
    category=StepCategory.INTEGRATION,
    icon="globe",
    color="#50C878",
    config_schema=config_schema(
        {
            "url": _text("The address to call; {key} in path or query stands for that key of the document."),
            "method": {"enum": ["GET", "POST", "PUT", "DELETE", "PATCH"], "default": "POST"},
            "client_ref": _text("Name of the client that is registered in the runtime, for calls by path."),
            "path": _text("The path to call on that client; {key} stands for that key of the document."),
            "headers": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Request headers; ${secret:name} stands for that secret, read in the worker.",
            },
            "fail_on_status": {
                "type": "boolean",
                "default": True,
                "description": "Whether a status of 400 or more fails the step.",
            },
            "max_response_bytes": {
                "type": "integer",
                "minimum": 1,
                "maximum": 64 * 1024 * 1024,
                "default": 1024 * 1024,
                "description": "Size of the answer after decompression.",
            },
        },
        anyOf=[{"required": ["url"]}, {"required": ["client_ref", "path"]}],
    ),
    input_ports=[PortSpec("body", "object", required=False), PortSpec("input", required=False)],
    output_ports=[PortSpec("output"), PortSpec("response", "object"), PortSpec("status", "integer")],
    examples=[{"url": "https://api.example.com/data", "method": "GET"}],
)

ACTION = StepTypeMetadata(
    type_id="action",
    version="1.0",
    display_name="Action",
    description="Takes an action that the worker's modules registered.",
    category=StepCategory.INTEGRATION,
    icon="zap",
    color="#50C878",
    config_schema=config_schema(
        {
            "action": _text("The id under which the action is registered.", minLength=1, maxLength=200),
            "payload": {"type": "object", "description": "What the action is given instead of the document."},
            "fail_on_error": {
                "type": "boolean",
                "default": True,
                "description": "Whether an action that fails fails the step.",
            },
        },
        required=["action"],
    ),
    input_ports=[PortSpec("payload", "object", required=False), PortSpec("input", required=False)],
    output_ports=[PortSpec("output"), PortSpec("result", "object"), PortSpec("status", "integer")],
    examples=[{"action": "notify_slack"}],
)

HUMAN_TASK = StepTypeMetadata(
    type_id="human_task",
    version="1.0",
    display_name="Human Task",
    description="Waits for a person's approval, choice, input or review.",
    category=StepCategory.HUMAN,
    icon="user",
    color="#FF6B6B",
    config_schema=config_schema(
        {
            "task_type": {"enum": ["approval", "choice", "input", "review", "chat", "task"], "default": "approval"},
            "title": _text("What the person sees first; {name} is a key of the input."),
            "description": _text("What the person is asked to do; {name} is a key of the input."),
            "assignee_ref": _text("Who is asked."),
            "assignee_group": _text("Or which group is asked."),
            "approvers": _names("Who may approve, beside the assignee."),
            "quorum": {"type": "integer", "minimum": 1, "default": 1, "description": "How many have to approve."},
            "four_eyes": {"type": "boolean", "default": False, "description": "Not the one who started the run."},
            "priority": {"enum": ["low", "normal", "high", "critical"], "default": "normal"},
            "show_input": {"type": "boolean", "default": True, "description": "Whether the person sees the input."},
            "timeout_hours": _hours("How long each person has.", default=24),
            "reminder_hours": _hours("How often people are reminded."),
            "sla_warning_hours": _hours("After how long a warning goes out."),
            "sla_breach_hours": _hours("After how long the breach is told."),
            "escalation_chain": _names("Who is asked next when the time is over, one after the other."),
            "choices": {"type": "array", "items": {"type": "string"}},
            "input_schema": {
                "type": "object",
                "format": SCHEMA_FORMAT,
                "description": "JSON Schema of what the person enters.",
            },
        },
        required=["task_type"],
    ),
    input_ports=[PortSpec("data", "object")],
    output_ports=[
        PortSpec("approved", "object"),
        PortSpec("rejected", "object"),
        PortSpec("modified", "object"),
        PortSpec("timeout", "object", required=False),
    ],
    examples=[{"task_type": "approval", "title": "Large invoice", "assignee_ref": "cfo@example.com"}],
)

CONDITION = StepTypeMetadata(
    type_id="condition",
    version="1.0",
    display_name="Condition",
    description="Hands its document on through the port true or false.",
    category=StepCategory.CONTROL,
    icon="git-branch",
    color="#9B59B6",
    config_schema=config_schema({"expression": _EXPRESSION}, required=["expression"]),
    input_ports=_any_ports("input"),
    output_ports=_any_ports("true", "false"),
    examples=[{"expression": "len(data.items) > 20"}],
)

PARALLEL_SPLIT = StepTypeMetadata(
    type_id="parallel_split",
    version="1.0",
    display_name="Parallel Split",
    description="Hands its document on through every branch at once.",
    category=StepCategory.CONTROL,
    icon="git-fork",
    color="#9B59B6",
    config_schema=config_schema({"branches": _BRANCHES}),
    input_ports=_any_ports("input"),
    output_ports=_any_ports("branch_1", "branch_2"),
    supports_parallel=True,
    examples=[{"branches": 3}],
)

PARALLEL_JOIN = StepTypeMetadata(
    type_id="parallel_join",
    version="1.0",
    display_name="Parallel Join",
    description="Waits for branches and hands on the list of what they gave.",
    category=StepCategory.CONTROL,
    icon="git-merge",
    color="#9B59B6",
    config_schema=config_schema(
        {"merge_strategy": {"enum": ["all", "any", "first"], "default": "all"}, "branches": _BRANCHES}
    ),
    input_ports=_any_ports("branch_1", "branch_2"),
    output_ports=[PortSpec("output", "array")],
    examples=[{"merge_strategy": "all"}],
)

TRANSFORM = StepTypeMetadata(
    type_id="transform",
    version="1.0",
    display_name="Transform",
    description="Reshapes its document by an expression, or by one per key of the result.",
    category=StepCategory.UTILITY,
    icon="shuffle",
    color="#F39C12",
    config_schema=config_schema(
        {
            "expression": _EXPRESSION,
            "mapping": {
                "type": "object",
                "additionalProperties": _EXPRESSION,
                "description": "Expressions by key of the result; wins over expression.",
            },
            "default": {"description": "The value where something is missing."},
        }
    ),
    input_ports=_any_ports("input"),
    output_ports=_any_ports("output"),
    examples=[{"expression": "[line.amount for line in lines]"}],
)

_RULE = {
    "type": "object",
    "properties": {
        "when": _text("Where the rule holds: an expression over the team's context."),
        "decision": {"enum": ["route", "retry", "escalate", "skip", "parallel", "end"]},
        "targets": _names("Agents; one that begins with $ is an expression that gives a name or a list of them."),
        "reason": _text("What is told with the decision."),
        "confidence": {"type": "number", "minimum": 0, "maximum": 1, "default": 1},
    },
    "required": ["when", "decision"],
    "additionalProperties": False,
}

_STRATEGY = {
    "type": "object",
    "properties": {
        "rules": {"type": "array", "items": _RULE, "maxItems": 200, "description": "Asked in their order."},
        "llm_ref": _text("Name of the provider that decides where no rule does."),
        "model": _text("Or name of the model, as for an llm_agent."),
        "prompt": _text("What the model is asked; {state}, {agents}, {states}, {history} and others are filled in."),
        "system_prompt": _text("What the model is told about its task."),
        "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 0},
        "max_tokens": {"type": "integer", "minimum": 1, "default": 1000},
    },
    "additionalProperties": False,
    "description": "Who decides: rules, then a model, then the order of the agents.",
}

TEAM = StepTypeMetadata(
    type_id="team",
    version="1.0",
    display_name="Team",
    description="Has several agents work on one task, in the order that its strategy decides.",
    category=StepCategory.AI,
    icon="users",
    color="#4A90D9",
    config_schema=config_schema(
        {
            "agents": {
                "type": "array",
                "minItems": 1,
                "maxItems": 50,
                "items": {
                    "type": "object",
                    "properties": {
                        "name": _text("Its name in decisions.", pattern="^[a-z][a-z0-9_]{0,63}$"),
                        "step_type": _text("The type of its step.", minLength=1, default="llm_agent"),
                        "description": _text("What it can do, for a model that decides."),
                        "config": {"type": "object", "description": "The configuration of its step."},
                    },
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
            "strategy": _STRATEGY,
            "max_turns": {"type": "integer", "minimum": 1, "maximum": 200, "default": 20},
            "max_tokens": {"type": "integer", "minimum": 1, "description": "Tokens of decisions and agents together."},
            "max_seconds": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds of all turns together."},
            "result": {"enum": ["state", "last"], "default": "state", "description": "What is handed on as result."},
        },
        required=["agents"],
    ),
    input_ports=_any_ports("input"),
    output_ports=[
        PortSpec("output", "object"),
        PortSpec("limit", "object", required=False),
        PortSpec("escalated", "object", required=False),
    ],
    examples=[{"agents": [{"name": "writer", "config": {"llm_ref": "main", "prompt": "Write about {topic}"}}]}],
)

_BUILTIN: tuple[tuple[StepTypeMetadata, dict[str, Any]], ...] = (
    (LLM_AGENT, {"queue": "llmteam.llm"}),
    (TEAM, {"queue": "llmteam.llm", "routing": True}),
    (HTTP_ACTION, {"queue": "llmteam.io"}),
    (HUMAN_TASK, {"queue": "llmteam.control", "routing": True}),
    (CONDITION, {"queue": "llmteam.io", "routing": True}),
    (PARALLEL_SPLIT, {"queue": "llmteam.io", "routing": True, "kind": "split"}),
    (PARALLEL_JOIN, {"queue": "llmteam.io", "kind": "join"}),
    (TRANSFORM, {"queue": "llmteam.io"}),
    # What an action calls may be a function of the user's own.
    (ACTION, {"queue": DEFAULT_QUEUE}),
)

#: The built-in types with what the engine knows of them.
BUILTIN_TYPES = tuple((metadata, metadata.facts().model_copy(update=extra)) for metadata, extra in _BUILTIN)
