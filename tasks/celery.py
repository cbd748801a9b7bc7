"""The application that ``celery -A llmteam.tasks`` finds, set up from ``LLMTEAM_*`` variables."""

from __future__ import annotations

from llmteam.beat_schedules import celery_schedule
from llmteam.dispatch import CONTROL_QUEUE, celery_app
from llmteam.regions import queue_in
from llmteam.settings import Settings
from llmteam.tasks.pickup import Pickup
from llmteam.tasks.startup import take_logging

_settings = Settings.load()
take_logging("celery", _settings)
app = celery_app(_settings, include=["llmteam.tasks"])
app.conf.beat_schedule = celery_schedule(_settings.sweep_seconds, queue_in(CONTROL_QUEUE, _settings.region))
app.steps["consumer"].add(Pickup)
