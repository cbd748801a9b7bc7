"""The application that ``celery -A llmteam.tasks`` finds, set up from ``LLMTEAM_*`` variables."""

from __future__ import annotations

from llmteam.beat_schedules import celery_schedule
from llmteam.dispatch import celery_app
from llmteam.settings import Settings
from llmteam.tasks.pickup import Pickup
from llmteam.tasks.startup import take_logging

_settings = Settings.load()
take_logging("celery", _settings)
app = celery_app(_settings, include=["llmteam.tasks"])
app.conf.beat_schedule = celery_schedule(_settings.sweep_seconds)
app.steps["consumer"].add(Pickup)
