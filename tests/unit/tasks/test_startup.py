"""What a worker refuses of an app before it takes its first hint."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery

from llmteam.dispatch import celery_app, step_queues
from llmteam.errors import ConfigurationError, InfrastructureError, MigrationsNotAppliedError
from llmteam.settings import Settings
from llmteam.tasks import startup

BROKER = "redis://127.0.0.1:9/0"


def foreign(**conf: Any) -> Celery:
    """An app of somebody else with our queues among its own."""
    app = Celery("shop", broker=BROKER, set_as_current=False)
    app.conf.update(task_queues=step_queues(), **conf)
    return app


def check(app: Celery, settings: Settings | None = None) -> None:
    startup.check_app(app, app.conf.task_queues, settings or Settings())


def test_our_own_app_is_fine() -> None:
    settings = Settings(broker_url=BROKER)

    check(celery_app(settings), settings)


def test_a_foreign_app_with_our_queues_is_fine() -> None:
    check(foreign())


def test_queues_that_deliver_again_are_refused_by_name() -> None:
    app = foreign()
    app.conf.task_queues[1].no_ack = False

    with pytest.raises(ConfigurationError, match=r"'shop' declares llmteam\.io without no_ack=True"):
        check(app)


def test_queues_of_another_region_than_the_workers_are_refused_by_name() -> None:
    east = Settings(broker_url=BROKER, region="us-east-1")
    check(celery_app(east), east)

    with pytest.raises(ConfigurationError, match=r"consumes llmteam\.control, .* but its LLMTEAM_REGION is us-east-1"):
        check(foreign(), east)


@pytest.mark.parametrize("conf", [{"task_serializer": "pickle"}, {"accept_content": ["pickle"]}])
def test_an_app_that_does_not_speak_json_is_refused(conf: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="hints are JSON"):
        check(foreign(**conf))


def test_content_types_may_be_written_in_full() -> None:
    check(foreign(accept_content=["application/json"]))


def test_another_broker_than_the_settings_is_said_without_its_password(caplog: pytest.LogCaptureFixture) -> None:
    check(foreign(), Settings(broker_url="redis://:hunter2@elsewhere:6379/0"))

    assert "LLMTEAM_BROKER_URL names redis://:***@elsewhere:6379/0" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_broker_that_is_no_redis_is_said_to_leave_limits_to_each_process(caplog: pytest.LogCaptureFixture) -> None:
    broker = "amqp://guest:hunter2@127.0.0.1:9//"

    check(celery_app(Settings(broker_url=broker)), Settings(broker_url=broker))
    alone = caplog.text
    caplog.clear()
    check(celery_app(Settings(broker_url=broker)), Settings(broker_url=broker, redis_url="redis://127.0.0.1:9/0"))

    assert "counts limits and keeps circuits for itself alone" in alone
    assert caplog.text == ""


def test_the_same_broker_written_otherwise_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check(foreign(), Settings(broker_url="redis://127.0.0.1:9/"))

    assert caplog.text == ""


def test_a_missing_database_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_DATABASE_URL is not set"):
        startup.check_database(Settings())


def test_a_module_that_cannot_be_imported_is_named() -> None:
    app = foreign()

    with pytest.raises(ConfigurationError, match="module 'no_such_module' cannot be imported"):
        startup.prepare(app, app.conf.task_queues, Settings(imports=("no_such_module",)))


@pytest.mark.parametrize(
    ("error", "code"),
    [(InfrastructureError("away"), 3), (MigrationsNotAppliedError("old"), 3), (ConfigurationError("wrong"), 2)],
)
def test_the_exit_code_tells_servers_from_settings(error: Any, code: int) -> None:
    assert startup.exit_code(error) == code


def test_nothing_is_known_of_code_that_works_for_nobody() -> None:
    assert startup.log_fields() == {}
