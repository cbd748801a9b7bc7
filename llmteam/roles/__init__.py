"""Orchestration and what is learned from it."""

from llmteam.mining import ProcessEvent, ProcessMetrics, ProcessMiningEngine, ProcessModel

__all__ = ["ProcessEvent", "ProcessMetrics", "ProcessMiningEngine", "ProcessModel"]
