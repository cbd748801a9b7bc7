"""The application that ``celery -A llmteam.tasks`` finds, set up from ``LLMTEAM_*`` variables."""

from __future__ import annotations

from llmteam.beat_schedules import celery_schedule
from llmteam.dispatch import celery_app
from llmteam.settings import Settings
from llmteam.tasks.pickup import Pickup

app = celery_app(Settings.load(), include=["llmteam.tasks"])
app.conf.beat_schedule = celery_schedule()
app.steps["consumer"].add(Pickup)
