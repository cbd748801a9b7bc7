"""Names and values of what spans say. Nothing of a tenant's data, no texts of errors, no paths of requests.

Names are those of OpenTelemetry's semantic conventions where there is one (``gen_ai.*``, ``http.*``, ``server.*``,
``error.type``), else ``llmteam.*``.
"""

from __future__ import annotations

import re

from llmteam.masking import never_logged
from llmteam.tracing.models import Attributes, Claim, Run, Value

__all__ = ["cleaned", "error_name", "of_claim", "of_run", "shown"]

#: Characters of a text that are kept.
_CHARACTERS = 200
#: The name of an error's class, with its module or without.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")


def shown(text: str) -> str:
    """``text`` without any secret that this process has handled, and not too long."""
    return never_logged.redact(text)[:_CHARACTERS]


def cleaned(attributes: Attributes) -> dict[str, Value]:
    """``attributes`` as they may be told; None tells nothing."""
    return {
        name: shown(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }


def error_name(name: str) -> str:
    """The kind of an error, as one word that says nothing else."""
    said = shown(name)
    return said if _NAME.fullmatch(said) or said.isdigit() else "Error"


def of_claim(claim: Claim) -> dict[str, str | int]:
    """What is said of every attempt."""
    return {
        "llmteam.tenant_id": claim.tenant_id,
        "llmteam.run_id": claim.run_id,
        "llmteam.segment": claim.segment_id,
        "llmteam.step_id": claim.step_id,
        "llmteam.step_type": claim.step_type,
        "llmteam.visit": claim.visit,
        "llmteam.attempt": claim.attempt,
    }


def of_run(run: Run) -> dict[str, str | int]:
    """What is said of a run, when it starts and when it is over."""
    said: dict[str, str | int] = {
        "llmteam.tenant_id": run.tenant_id,
        "llmteam.run_id": run.run_id,
        "llmteam.segment": run.segment_id,
    }
    if run.status:
        said |= {
            "llmteam.status": run.status,
            "llmteam.steps_completed": run.completed,
            "llmteam.steps_failed": run.failed,
        }
    return said
