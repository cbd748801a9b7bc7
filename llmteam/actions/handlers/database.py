"""Actions that are one statement of a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from llmteam.actions.exceptions import ActionDataError, InvalidActionError
from llmteam.actions.handlers.base import BuiltinHandler, in_thread
from llmteam.actions.models import ActionConfig, ActionContext, ActionResult, ActionStatus
from llmteam.runtime.context import current_runtime
from llmteam.runtime.manager import default_manager


@runtime_checkable
class Statements(Protocol):
    """A database that an operator registered as a client, like :class:`~llmteam.actions.SqlEngine`."""

    def names(self, statement: str) -> frozenset[str]:
        """The named parameters of a statement. Raises :class:`ActionDataError` unless it is a single one."""
        ...

    def run(
        self, statement: str, parameters: Mapping[str, Any], *, read_only: bool, seconds: float, max_bytes: int
    ) -> dict[str, Any]:
        """Run it in a transaction of its own; ``{"rows": […], "row_count": n}`` as JSON can carry it."""
        ...


class DatabaseActionHandler(BuiltinHandler):
    """Runs the action's statement with the payload as its named parameters, and nothing else.

    The database is the client that the runtime has under the name of the action's ``endpoint``. The statement is the
    operator's and fixed; what a run says is bound, never part of the text. Raises :class:`InvalidActionError` for an
    action without statement or endpoint.
    """

    def __init__(self, config: ActionConfig) -> None:
        super().__init__(config)
        if not config.statement or not config.endpoint:
            raise InvalidActionError(
                config.action_id,
                "a DATABASE action needs a statement, and as endpoint the name of a client registered in the runtime",
            )

    async def execute(self, context: ActionContext) -> ActionResult:
        """Run the statement once. Raises :class:`ActionDataError`, and what the runtime and the database raise."""
        config = self.config
        runtime = current_runtime.get() or default_manager().create_runtime(context.tenant_id, "")
        engine: object = runtime.resolve_client(config.endpoint or "")
        if not isinstance(engine, Statements):
            raise ActionDataError(
                f"client '{config.endpoint}' is no database: register an llmteam.actions.SqlEngine under this name"
            )

        def work() -> dict[str, Any]:
            statement = config.statement or ""
            _check_names(engine.names(statement), context.input_data)
            return engine.run(
                statement,
                context.input_data,
                read_only=config.read_only,
                seconds=self.seconds(context),
                max_bytes=config.max_response_bytes,
            )

        return ActionResult(context.action_name, ActionStatus.COMPLETED, response_data=await in_thread(work))


def _check_names(wanted: frozenset[str], given: Mapping[str, Any]) -> None:
    missing, unknown = sorted(wanted - set(given)), sorted(set(given) - wanted)
    if missing or unknown:
        said = [
            f"{word} {', '.join(names)[:200]}"
            for word, names in (("lacks", missing), ("does not know", unknown))
            if names
        ]
        raise ActionDataError(f"the statement's parameters: it {' and '.join(said)}")
