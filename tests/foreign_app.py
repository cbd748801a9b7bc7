"""A Celery app of somebody who already runs Celery: tasks of their own, and llmteam's beside them."""

from __future__ import annotations

import os

from celery import Celery

from llmteam.dispatch import step_queues

app = Celery("shop", broker=os.environ["LLMTEAM_BROKER_URL"], backend=os.environ["LLMTEAM_BROKER_URL"])
app.conf.update(
    accept_content=["json"],
    task_default_queue="shop",
    task_queues=step_queues(),
    task_create_missing_queues=True,
    worker_disable_prefetch=True,
    result_expires=60,
)
app.autodiscover_tasks(["llmteam"])


@app.task(name="shop.double")
def double(number: int) -> int:
    """Something of the shop's own."""
    return 2 * number
