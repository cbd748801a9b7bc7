"""The blocking client: start runs and wait for them from Django, Flask, scripts, or any other synchronous code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from llmteam.canvas.fleet import connect
from llmteam.canvas.results import RunConfig, SegmentResult
from llmteam.canvas.runs import Runs, Segment, Start, StartRules, runtime_ref
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.surgery import PAUSE_GRACE_SECONDS
from llmteam.ids import new_id
from llmteam.tenancy.context import DEFAULT_TENANT, get_current_tenant

if TYPE_CHECKING:
    from celery import Celery

    from llmteam.canvas.catalog import StepCatalog
    from llmteam.canvas.records import StepRecord
    from llmteam.settings import Settings

__all__ = ["SegmentClient"]


class SegmentClient:
    """Starts runs that workers elsewhere work on. Safe to share between threads; make one per process.

    Runs belong to ``tenant_id``, else to the current tenant, else to ``default``.
    """

    def __init__(self, runs: Runs, tenant_id: str | None = None) -> None:
        self._runs = runs
        self._tenant_id = tenant_id

    @classmethod
    def connect(
        cls,
        *,
        settings: Settings | None = None,
        database_url: str | None = None,
        broker_url: str | None = None,
        app: Celery | None = None,
        catalog: StepCatalog | None = None,
        tenant_id: str | None = None,
    ) -> Self:
        """A client of the installation that the arguments, else the ``LLMTEAM_*`` variables, name.

        ``app`` is a Celery app of yours whose broker the workers use. Connections are made on first use. Raises
        :class:`ConfigurationError`.
        """
        runs = connect(settings, database_url=database_url, broker_url=broker_url, app=app, catalog=catalog)
        return cls(runs, tenant_id)

    def _tenant(self) -> str:
        return self._tenant_id or get_current_tenant() or DEFAULT_TENANT

    def start(
        self,
        segment: Segment,
        input_data: Any = None,
        *,
        config: RunConfig | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        rules: StartRules | None = None,
        instance_id: str = "",
        data: dict[str, Any] | None = None,
    ) -> str:
        """Start a run and return its id. ``data`` is what handlers find in ``ctx.runtime.data``.

        A second start of the same ``run_id`` or ``idempotency_key`` gives the run of the first, unless ``rules`` say
        otherwise. Raises as :meth:`SegmentRunner.start`.
        """
        tenant_id, run_id = self._tenant(), run_id or new_id()
        context = runtime_ref(tenant_id, run_id, instance_id, data)
        return self._runs.start(
            Start(
                tenant_id,
                segment,
                input_data,
                config,
                run_id,
                instance_id,
                context,
                idempotency_key,
                rules or StartRules(),
            )
        )

    def result(self, run_id: str, timeout: float | None = None, *, events: bool = False) -> SegmentResult:
        """Wait until the run is over, at most ``timeout`` seconds, and return how it is then; with ``events`` if asked.

        Raises :class:`RunNotFoundError`.
        """
        return self._runs.wait(self._tenant(), run_id, timeout, events=events)

    def run(
        self,
        segment: Segment,
        input_data: Any = None,
        *,
        config: RunConfig | None = None,
        timeout: float | None = None,
    ) -> SegmentResult:
        """:meth:`start` and :meth:`result`. The run goes on when the caller stops waiting."""
        return self.result(self.start(segment, input_data, config=config), timeout)

    def status(self, run_id: str) -> SegmentStatus | None:
        """The run's status; None when it is unknown."""
        record = self._runs.engine.store.record(self._tenant(), run_id)
        return None if record is None else record.status

    def steps(self, run_id: str) -> list[StepRecord]:
        """The executions of the run's steps, in the order in which they began; none when it is unknown."""
        return self._runs.engine.store.steps(self._tenant(), run_id)

    def cancel(self, run_id: str, *, by: str = "") -> bool:
        """Cancel a run; False when it is unknown or over. ``by`` is, here and below, who wants that, for the audit."""
        return self._runs.cancel(self._tenant(), run_id, by=by)

    def pause(self, run_id: str, grace: float = PAUSE_GRACE_SECONDS, *, by: str = "") -> str | None:
        """Pause a run; the id of its snapshot, None when it is unknown or over. See :meth:`Surgery.pause`."""
        return self._runs.surgery.pause(self._tenant(), run_id, grace, by=by)

    def resume(self, name: str, *, by: str = "") -> str:
        """Go on with a paused run, named by its id or its snapshot's; the run's id. See :meth:`Surgery.resume`."""
        return self._runs.surgery.resume(self._tenant(), name, by=by)

    def retry(self, run_id: str, *, new_run_id: str | None = None, new_keys: bool = False, by: str = "") -> str:
        """A new run that goes on from what failed in an ended one; its id. See :meth:`Surgery.retry`."""
        return self._runs.surgery.retry(self._tenant(), run_id, new_run_id=new_run_id, new_keys=new_keys, by=by)

    def fork(
        self,
        run_id: str,
        step_id: str,
        *,
        visit: int | None = None,
        input_data: Any = None,
        state: Mapping[str, Any] | None = None,
        new_run_id: str | None = None,
        by: str = "",
    ) -> str:
        """A new run that goes on from one step of an ended one; its id. See :meth:`Surgery.fork`."""
        return self._runs.surgery.fork(
            self._tenant(), run_id, step_id, visit, given=input_data, state=state, new_run_id=new_run_id, by=by
        )

    def close(self) -> None:
        """Let go of connections."""
        self._runs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
