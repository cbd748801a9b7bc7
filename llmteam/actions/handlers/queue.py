"""Actions that put a message into a queue of another application."""

from __future__ import annotations

from llmteam import codec
from llmteam.actions.exceptions import InvalidActionError
from llmteam.actions.handlers.base import BuiltinHandler, in_thread, read_secret
from llmteam.actions.models import ActionConfig, ActionContext, ActionResult, ActionStatus
from llmteam.dispatch import Address, publish
from llmteam.errors import ConfigurationError
from llmteam.settings import Settings


class MessageQueueActionHandler(BuiltinHandler):
    """Publishes the payload as JSON to ``queue``, ``exchange/routing.key`` or ``topic:exchange/routing.key``.

    The broker is ``broker_url``, else the secret that ``secret_ref`` names, else the installation's own. Queues and
    exchanges whose names begin with ``llmteam`` are this system's and refused, with :class:`InvalidActionError`.
    """

    def __init__(self, config: ActionConfig, *, broker_url: str | None = None) -> None:
        super().__init__(config)
        self._broker_url = broker_url
        try:
            self._address = Address.parse(config.endpoint or "")
        except ConfigurationError as exc:
            raise InvalidActionError(config.action_id, str(exc)) from None

    async def execute(self, context: ActionContext) -> ActionResult:
        """Publish once; completed when the broker took the message. Raises what the broker's client raises."""
        url = self._broker_url
        if url is None and self.config.secret_ref:
            url = str(await read_secret(context, self.config.secret_ref))
        if url is None:
            url = Settings.load().broker_url
        if url is None:
            raise InvalidActionError(self.config.action_id, "there is no broker: give broker_url or LLMTEAM_BROKER_URL")
        headers = {**self.config.headers, "x-tenant-id": context.tenant_id}
        body = codec.dumps(context.input_data).encode()
        message_id = context.idempotency_key or None
        await in_thread(
            lambda: publish(
                url,
                self._address,
                body,
                headers=headers,
                message_id=message_id,
                correlation_id=context.correlation_id or None,
                seconds=self.seconds(context),
            )
        )
        return ActionResult(context.action_name, ActionStatus.COMPLETED, response_data={"message_id": message_id})
