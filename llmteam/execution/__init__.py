"""Agents side by side: as many at once as is good, tried again when it may help, none seeing the others."""

from __future__ import annotations

from llmteam.execution.config import ExecutionMode, ExecutorConfig, TaskResult
from llmteam.execution.executor import PipelineExecutor
from llmteam.execution.stats import ExecutionStats

__all__ = ["ExecutionMode", "ExecutionStats", "ExecutorConfig", "PipelineExecutor", "TaskResult"]
