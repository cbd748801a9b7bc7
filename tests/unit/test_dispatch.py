"""What the Celery app of an installation is told, where Celery's own choice would harm."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, suppress

from llmteam.dispatch import CeleryDispatcher, Hint, celery_app
from llmteam.settings import Settings


def test_a_broker_that_is_away_holds_up_nobody_who_sends() -> None:
    app = celery_app(Settings(broker_url="redis://127.0.0.1:9/0"))

    assert app.conf.broker_transport_options["max_retries"] == 0
    assert app.conf.task_publish_retry is False


class Silent(threading.Thread):
    """A broker that takes every connection and never says a word."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.taken: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.listening.getsockname()[1]}/0"

    def run(self) -> None:
        with suppress(OSError):
            while True:
                self.taken.append(self.listening.accept()[0])

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.join()
        for one in self.taken:
            one.close()


def test_a_broker_that_does_not_answer_is_left_alone_for_as_long_as_it_has_cost() -> None:
    with closing(Silent()) as broker:
        broker.start()
        app = celery_app(Settings(broker_url=broker.url))
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
