"""What a worker makes sure of before it takes its first hint, whoever's Celery app it runs.

Importing this module connects it to Celery's start of a worker. A worker that serves none of our queues is left alone.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery import current_task
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
)

from llmteam import telemetry, tracing
from llmteam.dispatch import RUN_STEP, is_ours, queues_in
from llmteam.errors import ConfigurationError, InfrastructureError, LLMTeamError
from llmteam.human.notifications.configured import channels_of_settings
from llmteam.human.respond_links import RespondLinks
from llmteam.regions import region_of
from llmteam.runtime.context import current_runtime, current_step
from llmteam.settings import Settings, mask_url
from llmteam.tasks import leaving, shutdown, watchdog
from llmteam.tasks.worker import import_user_modules, step_worker
from llmteam.variables import celery_url

if TYPE_CHECKING:
    from celery import Celery
    from kombu.entity import Queue

logger = logging.getLogger(__name__)

_LOGGING_UID = "llmteam.logging"


def log_fields() -> Mapping[str, object]:
    """Whose step the calling thread or coroutine works on; costs nothing until something is logged."""
    request = getattr(current_task, "request", None)
    if request is not None and current_task.name == RUN_STEP and len(request.args or ()) >= 3:
        return dict(zip(("tenant_id", "run_id", "step_id"), request.args, strict=False))
    # A coroutine runs in a thread of its loop, which has no task.
    if (step := current_step.get()) is not None:
        return {"tenant_id": step.runtime.tenant_id, "run_id": step.runtime.run_id, "step_id": step.step_id}
    runtime = current_runtime.get()
    return {} if runtime is None else {"tenant_id": runtime.tenant_id, "run_id": runtime.run_id}


def take_logging(program: str, settings: Settings) -> None:
    """Write this process's log as ``LLMTEAM_LOG_*`` say, and keep Celery from doing it its own way.

    The first caller names the program; for processes of our own app only.
    """
    if any(key[0] == _LOGGING_UID for key, _ in setup_logging.receivers or ()):
        return
    telemetry.set_up(settings, program, log_fields)
    telemetry.log_uncaught()
    setup_logging.connect(_already_done, weak=False, dispatch_uid=_LOGGING_UID)


def _already_done(**_: Any) -> None:
    """Connected, so that Celery leaves logging alone."""


def refuse(exc: LLMTeamError) -> None:
    """Say why this worker does not start."""
    print(f"llmteam: {exc}", file=sys.stderr, flush=True)  # noqa: T201  # logging may be anybody's


#: Told why the worker does not start; whoever supervises it puts itself here.
on_refusal: Callable[[LLMTeamError], None] = refuse


@celeryd_after_setup.connect(weak=False, dispatch_uid="llmteam.startup")  # type: ignore[untyped-decorator]
def _before_work(instance: Any, **_: Any) -> None:
    """Runs in the main process of a worker, before its pool is forked."""
    app: Celery = instance.app
    ours = [queue for name, queue in app.amqp.queues.consume_from.items() if is_ours(name)]
    if not ours:
        return
    try:
        settings = Settings.load()
        prepare(app, ours, settings)
    except LLMTeamError as exc:
        on_refusal(exc)
        raise SystemExit(exit_code(exc)) from None
    watch_over(settings)


def watch_over(settings: Settings) -> None:
    """Look after this worker from the moment on in which it is ready."""

    def ready(sender: Any, **_: Any) -> None:
        leaving.remember(sender)
        if _runs_here(sender.pool):
            # At once: it also sweeps when nobody else does.
            step_worker()
        watchdog.start(sender, settings.deaf_seconds)

    worker_ready.connect(ready, weak=False, dispatch_uid="llmteam.watchdog")
    worker_process_init.connect(_in_pool_process, weak=False, dispatch_uid="llmteam.startup")
    worker_process_shutdown.connect(_pool_process_ends, weak=False, dispatch_uid="llmteam.startup")


def _in_pool_process(**_: Any) -> None:
    """Make the step worker before the first step comes: each process of a pool sweeps when nobody else does."""
    step_worker()


def _pool_process_ends(**_: Any) -> None:
    """Such a process leaves without what others do at their exit."""
    tracing.flush()


def _runs_here(pool: Any) -> bool:
    """Whether tasks run in the main process: a fork must not find threads in it that hold a lock."""
    return type(pool).__module__ in ("celery.concurrency.thread", "celery.concurrency.solo")


def exit_code(exc: LLMTeamError) -> int:
    """3 when a server cannot be reached or is not set up, 2 for whatever has to be put right by hand."""
    return 3 if isinstance(exc, InfrastructureError) else 2


def prepare(app: Celery, queues: Sequence[Queue], settings: Settings) -> None:
    """Import users' modules, then check the app, the channels of notifications and the database.

    Raises :class:`ConfigurationError` or :class:`InfrastructureError` that says what to do.
    """
    import_user_modules(settings)
    check_app(app, queues, settings)
    check_notifications(settings)
    tracing.check(settings)
    check_database(settings)
    shutdown.prepare(settings.drain_seconds)


def check_notifications(settings: Settings) -> None:
    """Whether addresses and keys can be used, without reaching anybody. Raises :class:`ConfigurationError`."""
    channels_of_settings(settings)
    RespondLinks.of(settings)


def check_app(app: Celery, queues: Sequence[Queue], settings: Settings) -> None:
    """Whether the app's queues, serializers and broker can carry hints. Raises :class:`ConfigurationError`."""
    conf = app.conf
    _check_region(queues, settings)
    kept = sorted(queue.name for queue in queues if not queue.no_ack)
    if kept:
        raise ConfigurationError(
            f"the Celery app {app.main!r} declares {', '.join(kept)} without no_ack=True, so that hints would be "
            "delivered again for ever: put llmteam.dispatch.step_queues() into its task_queues"
        )
    if conf.task_serializer != "json" or "json" not in _accepted(conf.accept_content):
        raise ConfigurationError(
            f"the Celery app {app.main!r} has task_serializer={conf.task_serializer!r} and "
            f"accept_content={sorted(_accepted(conf.accept_content))}, but hints are JSON: set "
            "task_serializer='json' and have 'json' in accept_content"
        )
    broker = str(conf.broker_url)
    if settings.broker_url is not None and not _same_server(broker, settings.broker_url):
        logger.warning(
            "this worker's app uses the broker %s, LLMTEAM_BROKER_URL names %s: hints sent to the other are not seen",
            mask_url(broker),
            mask_url(settings.broker_url),
        )
    if settings.redis_beside(broker) is None:
        logger.warning(
            "no Redis is named and the broker is none: each process counts limits and keeps circuits for itself alone, "
            "and who waits for a run of another process looks now and then; set LLMTEAM_REDIS_URL, or "
            "LLMTEAM_LIMIT_WORKERS to the number of processes"
        )
    if not getattr(app.backend, "supports_native_join", False):
        logger.info("no result backend that counts chords: joins are hinted at by the last branch, or a sweep")


def _check_region(queues: Sequence[Queue], settings: Settings) -> None:
    """Of another region's queues a worker would take messages and run nothing."""
    away = sorted(queue.name for queue in queues if region_of(queue.name) != settings.region)
    if away:
        raise ConfigurationError(
            f"this worker consumes {', '.join(away)}, but its LLMTEAM_REGION is {settings.region}, so that it would "
            f"run nothing of what comes there: have it consume {', '.join(queues_in(settings.region))}, which "
            f"llmteam.dispatch.step_queues({settings.region!r}) declares, or set LLMTEAM_REGION"
        )


def _accepted(content: Any) -> set[str]:
    return {str(kind).removeprefix("application/") for kind in content or ()}


def _same_server(one: str, other: str) -> bool:
    """Whether two broker URLs look like the same, a database or trailing slash that is left out being 0."""
    same, named = (celery_url(url)[0].rstrip("/").removesuffix("/0") for url in (one, other))
    return same == named


def check_database(settings: Settings) -> None:
    """Whether the database is there, has our tables, and binds our login by row security.

    A login that could lift that, by becoming the owner of the tables, is warned of.

    Raises :class:`ConfigurationError` (no URL, insecure login) or :class:`InfrastructureError`.
    """
    from llmteam.db import Database

    if settings.database_url is None:
        raise ConfigurationError(
            "LLMTEAM_DATABASE_URL is not set: set it to the Postgres of the installation, or start the worker with "
            "`llmteam worker`, which uses the embedded one"
        )
    database = Database(settings.database_url, application_name=f"llmteam-check-{os.getpid()}", pool_size=1)
    try:
        database.check_login()
        if risk := database.owner_risk():
            logger.warning("%s", risk)
        database.check_schema()
    finally:
        database.close()
