"""The blocking client: start runs and wait for them from Django, Flask, scripts, or any other synchronous code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from llmteam.canvas.fleet import connect
from llmteam.canvas.results import RunConfig, SegmentResult
from llmteam.canvas.runs import DEFAULT_TENANT, Runs, Segment, Start, runtime_ref
from llmteam.canvas.state import SegmentStatus
from llmteam.ids import new_id
from llmteam.tenancy.context import get_current_tenant

if TYPE_CHECKING:
    from celery import Celery

    from llmteam.canvas.catalog import StepCatalog
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
        instance_id: str = "",
        data: dict[str, Any] | None = None,
    ) -> str:
        """Start a run and return its id. ``data`` is what handlers find in ``ctx.runtime.data``.

        Raises as :meth:`SegmentRunner.start`.
        """
        tenant_id, run_id = self._tenant(), run_id or new_id()
        context = runtime_ref(tenant_id, run_id, instance_id, data)
        return self._runs.start(Start(tenant_id, segment, input_data, config, run_id, instance_id, context))

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

    def cancel(self, run_id: str) -> bool:
        """Cancel a run; False when it is unknown or over."""
        return self._runs.cancel(self._tenant(), run_id)

    def close(self) -> None:
        """Let go of connections."""
        self._runs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
