"""Webhooks and REST calls: one attempt through the guard, with authentication and a signature."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from llmteam import codec, net
from llmteam.actions.attempts import JSON_TYPE, HttpAttempt, encoded, parsed, secret_names, with_secrets
from llmteam.actions.exceptions import InvalidActionError
from llmteam.actions.handlers.base import BuiltinHandler, in_thread, read_secret
from llmteam.actions.models import QUERY_METHODS, ActionConfig, ActionContext, ActionResult, ActionStatus
from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.ids import Clock, utc_now
from llmteam.net.headers import checked_headers
from llmteam.net.response import HttpResponse

#: Redirects that are followed where the action says so.
_REDIRECTS = 5

if TYPE_CHECKING:
    from llmteam.net import OutboundGuard


class HttpRequestHandler(BuiltinHandler):
    """Sends the payload to the action's endpoint: as JSON, or for GET, HEAD and DELETE in the query.

    A status below 300 completes it, as does one below 400 that is no redirect. Path and query of the endpoint may be
    secret and are in no error. Raises :class:`InvalidActionError` for an endpoint that is no http or https URL.
    """

    def __init__(self, config: ActionConfig, *, guard: OutboundGuard | None = None, clock: Clock = utc_now) -> None:
        super().__init__(config)
        self._clock = clock
        try:
            self._client = net.UrlClient(
                config.endpoint or "", timeout=config.timeout_seconds, guard=guard, trusted=config.trusted
            )
            checked_headers(config.headers)
            self._secrets = {secret for name, value in config.headers.items() for secret in secret_names(name, value)}
        except LLMTeamError as exc:
            reason = str(exc) if not isinstance(exc, ConfigurationError) else f"endpoint: {exc}"
            raise InvalidActionError(config.action_id, reason) from None

    async def execute(self, context: ActionContext) -> ActionResult:
        """Make one attempt. Raises the errors of :mod:`llmteam.net` and what reading a secret raises."""
        wanted = {*self._secrets, *filter(None, (self.config.secret_ref, self.config.signing_secret_ref))}
        secrets = {name: str(await read_secret(context, name)) for name in sorted(wanted)}
        attempt = self._attempt(context, secrets)
        cancelled = threading.Event()
        try:
            response: HttpResponse = await in_thread(self._send, attempt, self._query(context), cancelled)
        except net.RequestTimeoutError as exc:
            return ActionResult(
                context.action_name, ActionStatus.TIMEOUT, error_type="TimeoutError", error_message=str(exc)
            )
        finally:
            # The time is over or nobody waits any more: the thread ends soon too.
            cancelled.set()
        return self._result(context, response)

    def _send(self, attempt: HttpAttempt, query: str, cancelled: threading.Event) -> HttpResponse:
        redirects = _REDIRECTS if self.config.follow_redirects else 0

        def request(method: str, place: str, **options: Any) -> HttpResponse:
            return self._client.request(method, query, **options)

        return attempt.send(request, cancelled, max_redirects=redirects)

    def _query(self, context: ActionContext) -> str:
        if self.config.method not in QUERY_METHODS:
            return ""
        return urlencode({name: _in_query(value) for name, value in context.input_data.items()}, doseq=True)

    def _attempt(self, context: ActionContext, secrets: Mapping[str, str]) -> HttpAttempt:
        config = self.config
        headers = checked_headers(
            {name: with_secrets(value, secrets.__getitem__) for name, value in config.headers.items()}
        )
        body: dict[str, Any] = {}
        if config.method not in QUERY_METHODS:
            body = encoded(headers, context.input_data)
            headers.setdefault("content-type", JSON_TYPE)
        headers["x-tenant-id"] = context.tenant_id
        if context.correlation_id:
            headers["x-correlation-id"] = context.correlation_id
        if context.idempotency_key and config.idempotency_name:
            headers.setdefault(config.idempotency_name.lower(), context.idempotency_key)
        headers |= checked_headers(authentication(config, secrets.get(config.secret_ref or "")))
        attempt = HttpAttempt(
            config.method,
            self._client.where,
            headers,
            body,
            self.seconds(context),
            config.max_response_bytes,
            fail_on_status=False,
        )
        key = secrets.get(config.signing_secret_ref or "")
        return attempt.signed(key, self._clock()) if key else attempt

    def _result(self, context: ActionContext, response: HttpResponse) -> ActionResult:
        redirected = response.status in (301, 302, 303, 307, 308)
        data = None if redirected else parsed(response)
        if response.ok and not redirected:
            return ActionResult(
                context.action_name, ActionStatus.COMPLETED, response_data=data, response_code=response.status
            )
        failure = net.HTTPStatusError(response.status, response.where)
        try:
            response.raise_for_status()
        except net.HTTPStatusError as exc:
            failure = exc
        message = f"{failure}: redirects are not followed" if redirected else str(failure)
        return ActionResult.failure(
            context.action_name,
            "HTTPStatusError",
            message,
            response_data=data,
            response_code=response.status,
            retryable=response.status in self.config.retry_statuses,
            retry_after=failure.retry_after,
        )


class WebhookActionHandler(HttpRequestHandler):
    """Tells another system something."""


class RestActionHandler(HttpRequestHandler):
    """Calls another system's API."""


def _in_query(value: Any) -> Any:
    """A value as queries have it: text and numbers as they are, lists one by one, the rest as JSON."""
    if isinstance(value, list):
        return [_in_query(one) for one in value]
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else codec.dumps(value)


def authentication(config: ActionConfig, secret: str | None) -> dict[str, str]:
    """The header that ``auth_type`` asks for; a ``secret`` takes the place of token, password or key."""
    given = config.auth_config
    match config.auth_type:
        case "bearer":
            return {"Authorization": f"Bearer {secret or given.get('token', '')}"}
        case "basic":
            pair = f"{given.get('username', '')}:{secret or given.get('password', '')}"
            return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        case "api_key":
            return {given.get("header", "X-API-Key"): secret or given.get("key", "")}
    return {}
