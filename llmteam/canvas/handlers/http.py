"""``http_action``: one HTTP request, by URL or by path on a client that the operator registered.

- ``{key}`` (or ``{key.inner.0}``) in the path or query is filled from the document, percent-encoded. The host is never
  a template, so no document can choose where a request goes.
- ``${secret:name}`` in a header's value is that secret, read in the worker: ``"Bearer ${secret:crm}"``.
- GET and DELETE send no body. Otherwise the body is what port ``body`` got when that was reached, else the document.
- Unsafe methods carry ``Idempotency-Key``, the same for every attempt.

A failure is raised with what it says about trying again (``retryable``, ``retry_after``); retries are the engine's.
"""

from __future__ import annotations

import base64
import inspect
import re
from asyncio import timeout as time_limit
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from llmteam import codec, net
from llmteam.canvas.exceptions import CanvasError, InvalidStepConfigError
from llmteam.canvas.handlers.document import document
from llmteam.canvas.ports import Ports
from llmteam.ids import utc_now
from llmteam.net.headers import checked_headers, is_json, media_type
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
#: Never stored with a step: they are credentials of the service.
_UNSTORED = frozenset({"set-cookie", "set-cookie2"})

_HOST_PART = re.compile(r"[^/?#]*//[^/?#]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}|[{}]")
_KEY = re.compile(r"\w[\w-]*(?:\.\w[\w-]*)*")
_SECRET = re.compile(r"\$\{secret:([^{}]*)\}")
_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@-]{0,199}")


class RequestDataError(CanvasError):
    """The document of an ``http_action`` step does not give what its request needs. Values are never shown."""

    def __init__(self, step_id: str, reason: str) -> None:
        super().__init__(f"Request of step '{step_id}': {reason}")
        self.step_id = step_id
        self.reason = reason


@dataclass(frozen=True)
class _Call:
    """One request, ready to be sent."""

    method: str
    place: str
    headers: dict[str, str] = field(repr=False)
    body: dict[str, Any] = field(repr=False)
    seconds: float
    max_bytes: int
    fail_on_status: bool

    @property
    def shown(self) -> str:
        """What error texts may say of the destination."""
        return self.place.partition("?")[0][:200]


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
            return _sent(ctx, call, (self._client or net.default_client()).request)
        registered: Any = ctx.get_client(config["client_ref"])
        if isinstance(registered, net.BaseUrlClient):
            return _sent(ctx, call, registered.send)
        answer = registered.request(call.method, call.place, headers=call.headers, **call.body)
        return _awaited(ctx, call, answer) if inspect.isawaitable(answer) else _adapted(ctx, call, answer)


def _sent(ctx: StepContext, call: _Call, request: Callable[..., HttpResponse]) -> Ports:
    """Send by one of our own clients."""
    response = request(
        call.method,
        call.place,
        headers=call.headers,
        timeout=call.seconds,
        max_bytes=call.max_bytes,
        cancelled=ctx.cancelled,
        raise_for_status=call.fail_on_status,
        **call.body,
    )
    return _ports(ctx, call, response)


async def _awaited(ctx: StepContext, call: _Call, answer: Awaitable[Any]) -> Ports:
    limit = time_limit(call.seconds)
    try:
        async with limit:
            return _adapted(ctx, call, await answer)
    except TimeoutError:
        if not limit.expired():
            raise
    raise net.RequestTimeoutError(call.shown, call.seconds)


def _adapted(ctx: StepContext, call: _Call, answer: Any) -> Ports:
    """The answer of a client of the user's own: an ``httpx`` or ``requests`` response, or the parsed body itself."""
    if isinstance(answer, HttpResponse):
        response = answer
    elif hasattr(answer, "status_code"):
        headers = {str(name).lower(): str(value) for name, value in answer.headers.items()}
        response = HttpResponse(int(answer.status_code), headers, bytes(answer.content), call.shown)
    else:
        return Ports({"output": answer, "response": {"status": 200, "headers": {}}, "status": 200})
    if call.fail_on_status:
        response.raise_for_status()
    if len(response.body) > call.max_bytes:
        raise net.ResponseTooLargeError(response.where, call.max_bytes)
    return _ports(ctx, call, response)


def _ports(ctx: StepContext, call: _Call, response: HttpResponse) -> Ports:
    ctx.annotate("http", {"method": call.method, "status": response.status, "bytes": len(response.body)})
    headers = {name: value for name, value in response.headers.items() if name not in _UNSTORED}
    return Ports(
        {
            "output": _parsed(response),
            "response": {"status": response.status, "headers": headers},
            "status": response.status,
        }
    )


def _parsed(response: HttpResponse) -> Any:
    """JSON where the content type says so, else text; bytes that are no text as ``{"content_type", "base64"}``."""
    if not response.body:
        return None
    if response.is_json:
        return response.json()
    try:
        text = response.text
    except net.InvalidResponseError:
        text = "\x00"
    if "\x00" not in text:
        return text
    return {"content_type": response.media_type, "base64": base64.b64encode(response.body).decode()}


def _prepared(ctx: StepContext, config: Mapping[str, Any], input_data: Any) -> _Call:
    method = str(config.get("method", "POST")).upper()
    if method not in _METHODS:
        raise InvalidStepConfigError(_TYPE, [f"method: should be one of {', '.join(_METHODS)}"])
    value = document(ctx, input_data, _PORTS)
    headers = _headers(ctx, config.get("headers") or {})
    if method not in _SAFE and ctx.idempotency_key:
        headers.setdefault("idempotency-key", ctx.idempotency_key)
    return _Call(
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
    for name, value in headers.items():
        rest = _SECRET.sub("", value) if isinstance(value, str) else ""
        if "${" in rest:
            raise InvalidStepConfigError(_TYPE, [f"headers.{name}: after $ only {{secret:name}} is known"])
    return checked_headers({name: _with_secrets(ctx, name, value) for name, value in headers.items()})


def _with_secrets(ctx: StepContext, name: str, value: Any) -> Any:
    def secret(match: re.Match[str]) -> str:
        if _SECRET_NAME.fullmatch(match[1]) is None:
            raise InvalidStepConfigError(_TYPE, [f"headers.{name}: {match[1][:60]!r} is no name of a secret"])
        return str(ctx.get_secret(match[1]))

    return _SECRET.sub(secret, value) if isinstance(value, str) else value


def _body_value(ctx: StepContext, input_data: Any, value: Any) -> Any:
    """What was sent to port ``body``, else the document."""
    if isinstance(input_data, dict) and "body" in input_data and set(input_data) <= set(ctx.inputs or _PORTS):
        return input_data["body"]
    return value


def _body(ctx: StepContext, headers: Mapping[str, str], value: Any) -> dict[str, Any]:
    """The body as keywords of a request: JSON, unless the content type asks for text or a form."""
    if value is None:
        return {}
    media, charset = media_type(headers.get("content-type", ""))
    if not media or is_json(media):
        return {"json": value} if not media else {"data": codec.dumps(value).encode()}
    if isinstance(value, str):
        try:
            return {"data": value.encode(charset or "utf-8")}
        except (LookupError, UnicodeEncodeError):
            raise RequestDataError(ctx.step_id, f"the body cannot be written in {charset[:40]}") from None
    if media == "application/x-www-form-urlencoded" and isinstance(value, dict):
        return {"data": urlencode(value, doseq=True).encode()}
    raise RequestDataError(ctx.step_id, f"a body of type {media} has to be text")
