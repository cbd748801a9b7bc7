"""What a worker imports: ``llmteam worker --import llmteam.examples.ticket_triage.worker``."""

from __future__ import annotations

from llmteam.examples.ticket_triage.resources import register_from_environment

register_from_environment()
