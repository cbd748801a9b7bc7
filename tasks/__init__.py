"""Celery tasks: each loads what its message names and calls the engine; no logic of its own."""

if __name__ != "llmteam.tasks":
    raise ImportError("import llmteam.tasks: under the folder's own name every task would exist twice")

from llmteam.tasks import runs, startup, sweeps

__all__ = ["runs", "startup", "sweeps"]
