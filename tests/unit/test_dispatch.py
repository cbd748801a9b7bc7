"""What the Celery app of an installation is told, where Celery's own choice would harm."""

from __future__ import annotations

from contextlib import closing

from llmteam.dispatch import CeleryDispatcher, Hint, celery_app
from llmteam.settings import Settings
from tests.silent import Silent


def test_a_broker_that_is_away_holds_up_nobody_who_sends() -> None:
    app = celery_app(Settings(broker_url="redis://127.0.0.1:9/0"))

    assert app.conf.broker_transport_options["max_retries"] == 0
    assert app.conf.task_publish_retry is False


def test_a_broker_that_does_not_answer_is_left_alone_for_as_long_as_it_has_cost() -> None:
    with closing(Silent()) as broker:
        app = celery_app(Settings(broker_url=f"redis://{broker.address}/0"))
        app.conf.broker_transport_options["socket_timeout"] = 0.3
        moments = iter([0.0, 5.0, 9.9, 10.0, 15.0])
        dispatcher = CeleryDispatcher(app, monotonic=lambda: next(moments))
        hint = Hint("acme", "run", "step", 1, "llmteam.io")

        dispatcher.send([hint])
        cost = len(broker.taken)
        dispatcher.send([hint])
        spared = len(broker.taken)
        dispatcher.send([hint])

        assert cost >= 1
        assert spared == cost
        assert len(broker.taken) > spared
        app.close()
