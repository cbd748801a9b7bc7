"""What the Celery app of an installation is told, where Celery's own choice would harm."""

from __future__ import annotations

from llmteam.dispatch import celery_app
from llmteam.settings import Settings


def test_a_broker_that_is_away_holds_up_nobody_who_sends() -> None:
    app = celery_app(Settings(broker_url="redis://127.0.0.1:9/0"))

    assert app.conf.broker_transport_options["max_retries"] == 0
    assert app.conf.task_publish_retry is False
