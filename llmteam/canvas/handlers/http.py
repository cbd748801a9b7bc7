"""``http_action``: one HTTP request, by URL or by path on a client that the operator registered.

- ``{key}`` (or ``{key.inner.0}``) in the path or query is filled from the document, percent-encoded. The host is never
  a template, so no document can choose where a request goes.
- ``${secret:name}`` in a header's value is that secret, read in the worker: ``"Bearer ${secret:crm}"``.
- GET and DELETE send no body. Otherwise the body is what port ``body`` got when that was reached, else the document.
- Unsafe methods carry ``Idempotency-Key``, the same for every attempt.

A failure is raised with what it says about trying again (``retryable``, ``retry_after``); retries are the engine's.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llmteam import net
from llmteam.actions.attempts import HttpAttempt, encoded, parsed, secret_names, stored_headers, with_secrets
from llmteam.actions.exceptions import ActionDataError
from llmteam.canvas.exceptions import CanvasError, InvalidStepConfigError
from llmteam.canvas.handlers.document import document
from llmteam.canvas.ports import Ports
from llmteam.ids import utc_now
from llmteam.net.headers import checked_headers
from llmteam.net.response import HttpResponse
from llmteam.net.urls import check_segments, parse_target

if TYPE_CHECKING:
    from llmteam.net import HttpClient
    from llmteam.runtime.context import StepContext

#: Seconds for one attempt where the configuration names none.
TIMEOUT_SECONDS = 30.0

_TYPE = "http_action"
_PORTS = ("body", "input")
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
_NO_BODY = frozenset({"GET", "DELETE"})
_SAFE = frozenset({"GET"})

_HOST_PART = re.compile(r"[^/?#]*//[^/?#]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}|[{}]")
_KEY = re.compile(r"\w[\w-]*(?:\.\w[\w-]*)*")


class RequestDataError(CanvasError):
    """The document of an ``http_action`` step does not give what its request needs. Values are never shown."""

    def __init__(self, step_id: str, reason: str) -> None:
        super().__init__(f"Request of step '{step_id}': {reason}")
        self.step_id = step_id
        self.reason = reason


class HttpActionHandler:
    """The handler of ``http_action``. ``client`` (default: the process's own) sends requests by URL."""

    def __init__(self, client: HttpClient | None = None) -> None:
        self._client = client

    def __call__(self, ctx: StepContext, config: dict[str, Any], input_data: Any) -> Ports | Awaitable[Ports]:
        """Send the request and answer with its ports; to be awaited when the registered client has to be.

        Raises the errors of :mod:`llmteam.net`, :class:`RequestDataError`, :class:`InvalidStepConfigError` and what
        resolving the client or a secret raises.
        """
        call = _prepared(ctx, config, input_data)
        if "client_ref" not in config:
            client = self._client or net.default_client()
            return _ports(ctx, call, call.send(client.request, ctx.cancelled))
        registered: Any = ctx.get_client(config["client_ref"])
        if isinstance(registered, net.BaseUrlClient):
            return _ports(ctx, call, call.send(registered.send, ctx.cancelled))
        answer = registered.request(call.method, call.place, headers=call.headers, **call.body)
        return _awaited(ctx, call, answer) if inspect.isawaitable(answer) else _adapted(ctx, call, answer)


async def _awaited(ctx: StepContext, call: HttpAttempt, answer: Awaitable[Any]) -> Ports:
    return _adapted(ctx, call, await call.awaited(answer))


def _adapted(ctx: StepContext, call: HttpAttempt, answer: Any) -> Ports:
    response = call.adapted(answer)
    if response is None:
        return Ports({"output": answer, "response": {"status": 200, "headers": {}}, "status": 200})
    return _ports(ctx, call, response)


def _ports(ctx: StepContext, call: HttpAttempt, response: HttpResponse) -> Ports:
    ctx.annotate("http", {"method": call.method, "status": response.status, "bytes": len(response.body)})
    return Ports(
        {
            "output": parsed(response),
            "response": {"status": response.status, "headers": stored_headers(response)},
            "status": response.status,
        }
    )


def _prepared(ctx: StepContext, config: Mapping[str, Any], input_data: Any) -> HttpAttempt:
    method = str(config.get("method", "POST")).upper()
    if method not in _METHODS:
        raise InvalidStepConfigError(_TYPE, [f"method: should be one of {', '.join(_METHODS)}"])
    value = document(ctx, input_data, _PORTS)
    headers = _headers(ctx, config.get("headers") or {})
    if method not in _SAFE and ctx.idempotency_key:
        headers.setdefault("idempotency-key", ctx.idempotency_key)
    return HttpAttempt(
        method=method,
        place=_place(ctx, config, value),
        headers=headers,
        body={} if method in _NO_BODY else _body(ctx, headers, _body_value(ctx, input_data, value)),
        seconds=_seconds(ctx, config),
        max_bytes=int(config.get("max_response_bytes", 1024 * 1024)),
        fail_on_status=config.get("fail_on_status", True) is not False,
    )


def _seconds(ctx: StepContext, config: Mapping[str, Any]) -> float:
    """What the configuration gives to one attempt, and never more than is left of the step's time."""
    seconds = float(config.get("timeout_seconds") or TIMEOUT_SECONDS)
    left = seconds if ctx.deadline is None else (ctx.deadline - utc_now()).total_seconds()
    return max(min(seconds, left), 0.0)


def _place(ctx: StepContext, config: Mapping[str, Any], value: Any) -> str:
    """The URL, or the path on the registered client, with its templates filled."""
    given = [name for name in ("url", "client_ref") if config.get(name)]
    if len(given) != 1 or ("client_ref" in given and not isinstance(config.get("path"), str)):
        raise InvalidStepConfigError(_TYPE, ["give url, or client_ref and path"])
    if "client_ref" in given:
        path, query = _filled(ctx, "path", config["path"], value)
        check_segments(config["client_ref"], path)
        return path + query
    match = _HOST_PART.match(config["url"])
    host = match[0] if match else ""
    if "{" in host:
        raise InvalidStepConfigError(_TYPE, ["url: the host cannot be a template, only path and query can"])
    path, query = _filled(ctx, "url", config["url"][len(host) :], value)
    check_segments(parse_target(host + "/").authority, path)
    return host + path + query


def _filled(ctx: StepContext, name: str, template: str, value: Any) -> tuple[str, str]:
    """Path and query (with its question mark) of ``template``."""
    path, mark, query = template.partition("?")
    in_path = _PLACEHOLDER.sub(lambda match: _replacement(ctx, name, match, value, empty=False), path)
    in_query = _PLACEHOLDER.sub(lambda match: _replacement(ctx, name, match, value, empty=True), query)
    return in_path, mark + in_query


def _replacement(ctx: StepContext, name: str, match: re.Match[str], value: Any, *, empty: bool) -> str:
    key = match[1]
    if key is None or _KEY.fullmatch(key) is None:
        hint = "secrets belong in headers" if key and key.startswith("secret:") else "write a brace as %7B or %7D"
        raise InvalidStepConfigError(_TYPE, [f"{name}: {match[0][:60]!r} is no {{key}} of the document; {hint}"])
    found = value
    for part in key.split("."):
        found = _inner(ctx, key, found, part)
    if isinstance(found, bool):
        return "true" if found else "false"
    if not isinstance(found, str | int | float):
        raise RequestDataError(ctx.step_id, f"{{{key}}} in {name} is no text or number")
    if found == "" and not empty:
        raise RequestDataError(ctx.step_id, f"{{{key}}} in the path of {name} is empty text")
    return quote(str(found), safe="")


def _inner(ctx: StepContext, key: str, container: Any, part: str) -> Any:
    if isinstance(container, dict) and part in container:
        return container[part]
    if isinstance(container, list) and part.isascii() and part.isdigit() and int(part) < len(container):
        return container[int(part)]
    raise RequestDataError(ctx.step_id, f"the document has no {{{key}}}")


def _headers(ctx: StepContext, headers: Mapping[str, Any]) -> dict[str, str]:
    """Lower-case names, secrets in place. Raises :class:`InvalidHeaderError`."""
    try:
        for name, value in headers.items():
            secret_names(name, value)
    except ActionDataError as exc:
        raise InvalidStepConfigError(_TYPE, [exc.reason]) from None
    return checked_headers({name: with_secrets(value, ctx.get_secret) for name, value in headers.items()})


def _body_value(ctx: StepContext, input_data: Any, value: Any) -> Any:
    """What was sent to port ``body``, else the document."""
    if isinstance(input_data, dict) and "body" in input_data and set(input_data) <= set(ctx.inputs or _PORTS):
        return input_data["body"]
    return value


def _body(ctx: StepContext, headers: Mapping[str, str], value: Any) -> dict[str, Any]:
    try:
        return encoded(headers, value)
    except ActionDataError as exc:
        raise RequestDataError(ctx.step_id, exc.reason) from None
