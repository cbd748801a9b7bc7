"""``http_action`` against real servers on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from llmteam import codec
from llmteam.canvas.exceptions import InvalidStepConfigError
from llmteam.canvas.handlers.http import HttpActionHandler, RequestDataError
from llmteam.canvas.ports import Ports
from llmteam.ids import utc_now
from llmteam.net import (
    BaseUrlClient,
    HttpClient,
    HTTPStatusError,
    InvalidHeaderError,
    InvalidResponseError,
    OutboundGuard,
    OutboundRefusedError,
    RequestCancelledError,
    RequestTimeoutError,
    ResponseTooLargeError,
)
from llmteam.runtime.context import StepContext
from llmteam.runtime.exceptions import ResourceNotFoundError
from llmteam.runtime.manager import RuntimeContextManager
from tests.unit.net.loopback import Loopback, serving
from tests.unit.net.test_client import drip

Call = Callable[..., Any]


class Secrets:
    def get_secret(self, secret_id: str) -> str:
        return {"crm": "canary-1", "team/other": "canary-2", "broken": "a\r\nX-Evil: b"}[secret_id]


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        running.routes["/"] = lambda h: h.answer()
        yield running


@pytest.fixture
def manager() -> RuntimeContextManager:
    made = RuntimeContextManager()
    made.register_secrets_provider(Secrets())  # type: ignore[arg-type]
    return made


@pytest.fixture
def ctx(manager: RuntimeContextManager) -> StepContext:
    return manager.create_runtime("acme", "i").child_context(
        "call", inputs=("body", "input"), outputs=("output", "response", "status"), idempotency_key="key-1"
    )


@pytest.fixture
def call(server: Loopback, ctx: StepContext) -> Iterator[Call]:
    """Runs the handler with a configuration and an input on ``ctx``."""
    client = HttpClient(OutboundGuard(allow_private=[server.endpoint]))
    handler = HttpActionHandler(client)
    yield lambda config, given=None: handler(ctx, config, given)
    client.close()


def answering(value: Any, status: int = 200, **headers: str) -> Any:
    headers.setdefault("Content_Type", "application/json")
    return lambda h: h.answer(status, json.dumps(value).encode(), **headers)


def test_the_parsed_body_the_response_and_the_status_leave_by_their_ports(server: Loopback, call: Call) -> None:
    server.routes["/items"] = answering([1, 2], 201, X_Total="2", Set_Cookie="session=canary")
    ports = call({"url": f"{server.url}/items", "method": "GET"})
    assert isinstance(ports, Ports)
    assert (ports["output"], ports["status"], ports["response"]["status"]) == ([1, 2], 201, 201)
    assert ports["response"]["headers"]["x-total"] == "2"
    assert "canary" not in codec.dumps(ports)


@pytest.mark.parametrize(
    ("body", "content_type", "output"),
    [
        (b'{"a": 1}', "application/json", {"a": 1}),
        (b'{"a": 1}', "application/vnd.api+json", {"a": 1}),
        (b'{"a": 1}', "text/plain", '{"a": 1}'),
        (b"\xe4", "text/plain; charset=latin-1", "ä"),
        (b"", "application/json", None),
        (b"\x89PNG\xff", "image/png", {"content_type": "image/png", "base64": "iVBOR/8="}),
        (b"a\x00b", "text/plain", {"content_type": "text/plain", "base64": "YQBi"}),
    ],
)
def test_the_body_is_parsed_as_its_content_type_says(
    server: Loopback, call: Call, body: bytes, content_type: str, output: Any
) -> None:
    server.routes["/x"] = lambda h: h.answer(body=body, Content_Type=content_type)
    ports = call({"url": f"{server.url}/x", "method": "GET"})
    assert ports["output"] == output
    codec.check(ports)


def test_an_answer_that_is_not_the_json_it_promises_is_an_error(server: Loopback, call: Call) -> None:
    server.routes["/x"] = lambda h: h.answer(body=b"{", Content_Type="application/json")
    with pytest.raises(InvalidResponseError):
        call({"url": f"{server.url}/x"})


def test_post_is_the_default_and_sends_the_document_as_json(server: Loopback, call: Call) -> None:
    call({"url": server.url}, {"input": {"amount": 5}})
    (got,) = server.received
    assert (got.method, got.body, got.headers["content-type"]) == ("POST", b'{"amount":5}', "application/json")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_send_no_body(server: Loopback, call: Call, method: str) -> None:
    call({"url": server.url, "method": method}, {"input": {"amount": 5}})
    assert server.received[0].body == b""


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"body": {"a": 1}}, b'{"a":1}'),
        ({"body": {"a": 1}, "input": {"b": 2}}, b'{"a":1}'),
        ({"amount": 5, "body": "no port"}, b'{"amount":5,"body":"no port"}'),
        ({"input": None}, b""),
        ({"input": "text"}, b'"text"'),
    ],
)
def test_the_body_port_wins_over_the_document(server: Loopback, call: Call, given: Any, sent: bytes) -> None:
    call({"url": server.url, "method": "PUT"}, given)
    assert server.received[0].body == sent


@pytest.mark.parametrize(
    ("content_type", "body", "sent"),
    [
        ("text/csv", "a,b", b"a,b"),
        ("text/plain; charset=latin-1", "ä", b"\xe4"),
        ("application/x-www-form-urlencoded", {"a": "x y", "b": ["1", "2"]}, b"a=x+y&b=1&b=2"),
        ("application/vnd.api+json", {"a": 1}, b'{"a":1}'),
    ],
)
def test_a_content_type_of_ones_own_decides_how_the_body_is_written(
    server: Loopback, call: Call, content_type: str, body: Any, sent: bytes
) -> None:
    call({"url": server.url, "headers": {"Content-Type": content_type}}, {"body": body})
    assert (server.received[0].body, server.received[0].headers["content-type"]) == (sent, content_type)


@pytest.mark.parametrize(("content_type", "body"), [("application/xml", {"a": 1}), ("text/plain; charset=ascii", "ä")])
def test_a_body_that_cannot_be_written_so_is_an_error(
    server: Loopback, call: Call, content_type: str, body: Any
) -> None:
    with pytest.raises(RequestDataError, match="body"):
        call({"url": server.url, "headers": {"Content-Type": content_type}}, {"body": body})
    assert server.received == []


def test_unsafe_methods_carry_the_idempotency_key_and_safe_ones_do_not(server: Loopback, call: Call) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "GET"):
        call({"url": server.url, "method": method})
    assert [got.headers.get("idempotency-key") for got in server.received] == ["key-1"] * 4 + [None]
    call({"url": server.url, "headers": {"IDEMPOTENCY-KEY": "mine"}})
    assert server.received[-1].headers["idempotency-key"] == "mine"


def test_placeholders_are_filled_from_the_document_and_encoded(server: Loopback, call: Call) -> None:
    config = {
        "url": f"{server.url}/items/{{id}}/{{owner.name}}/{{lines.1}}?q={{text}}&on={{flag}}&n={{none}}",
        "method": "GET",
    }
    document = {"id": "a/b?c#d", "owner": {"name": "ä"}, "lines": [1, 2.5], "text": "x&y=1", "flag": True, "none": ""}
    with pytest.raises(HTTPStatusError):
        call(config, {"input": document})
    assert server.received[0].path == "/items/a%2Fb%3Fc%23d/%C3%A4/2.5?q=x%26y%3D1&on=true&n="


@pytest.mark.parametrize(
    "value", ["..", ".", "", None, {"a": 1}, ["x"]], ids=["up", "here", "empty", "null", "object", "list"]
)
def test_a_value_that_would_change_the_path_is_refused(server: Loopback, call: Call, value: Any) -> None:
    with pytest.raises((RequestDataError, OutboundRefusedError)) as caught:
        call({"url": f"{server.url}/users/{{id}}/private"}, {"input": {"id": value}})
    assert caught.value.retryable is False
    assert server.received == []


def test_a_missing_key_names_the_key_and_shows_no_value(server: Loopback, call: Call) -> None:
    with pytest.raises(RequestDataError, match=r"\{order\.id\}") as caught:
        call({"url": f"{server.url}/{{order.id}}"}, {"input": {"order": {"secret": "canary"}}})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}/x",
        "{scheme}://example.com/",
        "http://example.com:{port}/",
        "http://user:{x}@example.com/",
        "{url}",
        "http://example.com{host}",
    ],
)
def test_the_host_is_never_a_template(call: Call, url: str) -> None:
    with pytest.raises((InvalidStepConfigError, OutboundRefusedError)):
        call({"url": url}, {"input": dict.fromkeys(("host", "scheme", "port", "x", "url"), "127.0.0.1")})


def test_no_value_of_a_document_changes_where_the_request_goes(server: Loopback, call: Call) -> None:
    for value in ("@evil.example/", "//evil.example", "\\evil", ":80@evil.example", "x\r\nHost: evil"):
        with pytest.raises(HTTPStatusError):
            call({"url": f"{server.url}/x{{v}}?{{v}}"}, {"input": {"v": value}})
        assert server.received[-1].headers["host"] == server.endpoint


@pytest.mark.parametrize("path", ["/{a b}", "/{}", "/{a", "/a}", "/{a.}", "/{secret:crm}", "/${secret:crm}"])
def test_braces_that_are_no_placeholder_are_refused_with_a_hint(call: Call, path: str) -> None:
    with pytest.raises(InvalidStepConfigError, match=r"%7B|headers"):
        call({"url": f"http://example.com{path}"}, {"input": {"a": 1}})


def test_secrets_stand_in_headers_by_reference(server: Loopback, call: Call, ctx: StepContext) -> None:
    headers = {"Authorization": "Bearer ${secret:crm}", "X-Both": "${secret:crm}:${secret:team/other}"}
    ports = call({"url": server.url, "headers": headers})
    assert server.received[0].headers["authorization"] == "Bearer canary-1"
    assert server.received[0].headers["x-both"] == "canary-1:canary-2"
    assert "canary" not in f"{ports} {ctx.annotations}"


def test_a_secret_that_does_not_exist_or_breaks_a_header_sends_nothing(server: Loopback, call: Call) -> None:
    with pytest.raises(ResourceNotFoundError):
        call({"url": server.url, "headers": {"X-A": "${secret:unknown}"}})
    with pytest.raises(InvalidHeaderError) as caught:
        call({"url": server.url, "headers": {"X-A": "${secret:broken}"}})
    assert "Evil" not in str(caught.value)
    for value in ("${secret:}", "${secret:a b}", "${env:HOME}", "${"):
        with pytest.raises(InvalidStepConfigError, match="X-A"):
            call({"url": server.url, "headers": {"X-A": value}})
    assert server.received == []


def test_a_header_cannot_smuggle_another(server: Loopback, call: Call) -> None:
    with pytest.raises(InvalidHeaderError):
        call({"url": server.url, "headers": {"X-A": "a\r\nX-B: c"}})
    assert server.received == []


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (408, True), (425, True), (429, True), (503, True)])
def test_an_error_status_fails_with_what_the_engine_needs_for_a_retry(
    server: Loopback, call: Call, status: int, retryable: bool
) -> None:
    server.routes["/x"] = answering({"detail": "canary"}, status, Retry_After="7")
    with pytest.raises(HTTPStatusError, match=f"/x answered HTTP {status}") as caught:
        call({"url": f"{server.url}/x?token=canary"})
    assert (caught.value.retryable, caught.value.retry_after) == (retryable, 7.0)
    assert "canary" not in repr(caught.value)


def test_an_error_status_is_an_answer_when_the_step_wants_it(server: Loopback, call: Call) -> None:
    server.routes["/x"] = answering({"detail": "no"}, 404)
    ports = call({"url": f"{server.url}/x", "fail_on_status": False})
    assert (ports["status"], ports["output"]) == (404, {"detail": "no"})


def test_an_answer_over_the_limit_is_refused(server: Loopback, call: Call) -> None:
    server.routes["/x"] = answering("x" * 2000)
    with pytest.raises(ResponseTooLargeError):
        call({"url": f"{server.url}/x", "max_response_bytes": 1000})


def test_the_configured_timeout_and_the_steps_deadline_bound_the_request(
    server: Loopback, call: Call, ctx: StepContext
) -> None:
    server.routes["/slow"] = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")  # type: ignore[assignment]
    with pytest.raises(RequestTimeoutError):
        call({"url": f"{server.url}/slow", "timeout_seconds": 0.2})
    ctx.deadline = utc_now() + timedelta(seconds=0.2)
    with pytest.raises(RequestTimeoutError):
        call({"url": f"{server.url}/slow"})
    with pytest.raises(RequestTimeoutError):
        call({"url": f"{server.url}/slow"})


def test_a_cancelled_step_lets_go(server: Loopback, call: Call, ctx: StepContext) -> None:
    server.routes["/slow"] = lambda h: (ctx.cancelled.set(), drip(b"HTTP/1.1 200 OK\r\n")(h))  # type: ignore[operator]
    with pytest.raises(RequestCancelledError):
        call({"url": f"{server.url}/slow"})


def test_a_url_into_a_private_network_is_refused_with_the_setting_that_opens_it(ctx: StepContext) -> None:
    handler = HttpActionHandler(HttpClient(OutboundGuard()))
    with pytest.raises(OutboundRefusedError, match=r"loopback address.*LLMTEAM_ALLOW_PRIVATE_NETWORKS"):
        handler(ctx, {"url": "http://localhost:9/x"}, None)


def test_the_event_says_what_was_called_and_how_it_went(server: Loopback, call: Call, ctx: StepContext) -> None:
    server.routes["/x"] = answering([1])
    call({"url": f"{server.url}/x?token=canary", "method": "GET"})
    assert ctx.annotations["http"] == {"method": "GET", "status": 200, "bytes": 3}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"client_ref": "crm"},
        {"url": "http://x.example", "client_ref": "crm", "path": "/"},
        {"path": "/"},
        {"url": "http://x.example", "method": "TRACE"},
    ],
)
def test_a_configuration_that_names_no_single_destination_is_refused(call: Call, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidStepConfigError):
        call(config)


def test_a_registered_client_is_called_by_path(server: Loopback, call: Call, manager: RuntimeContextManager) -> None:
    server.routes["/v1/items/7"] = answering({"id": 7})
    client = BaseUrlClient(f"{server.url}/v1", {"X-Key": "k"}, guard=OutboundGuard())
    manager.register_client("crm", client)
    config = {"client_ref": "crm", "path": "/items/{id}?full={full}", "headers": {"X-A": "${secret:crm}"}}
    ports = call(config, {"input": {"id": 7, "full": True}})
    (got,) = server.received
    assert (ports["output"], got.path) == ({"id": 7}, "/v1/items/7?full=true")
    assert (got.headers["x-key"], got.headers["x-a"], got.headers["idempotency-key"]) == ("k", "canary-1", "key-1")
    for path in ("../admin", "//evil.example/", "/{id}"):
        with pytest.raises(OutboundRefusedError):
            call({"client_ref": "crm", "path": path}, {"input": {"id": ".."}})
    client.close()


def test_an_unknown_client_is_named(call: Call) -> None:
    with pytest.raises(ResourceNotFoundError, match="Client 'nobody' not found"):
        call({"client_ref": "nobody", "path": "/"})


class Answer:
    """As ``httpx`` and ``requests`` answer."""

    def __init__(self, status_code: int, content: bytes, **headers: str) -> None:
        self.status_code = status_code
        self.content = content
        self.headers = headers


class OwnClient:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[tuple[str, str, dict[str, Any]]] = []

    async def request(self, method: str, path: str, **kwargs: Any) -> Any:
        self.seen.append((method, path, kwargs))
        if self.answer is None:
            await asyncio.sleep(60)
        return self.answer


@pytest.mark.parametrize(
    ("answer", "output", "status"),
    [
        ({"id": 7}, {"id": 7}, 200),
        (Answer(201, b'{"id": 7}', **{"Content-Type": "application/json"}), {"id": 7}, 201),
    ],
)
def test_a_client_of_the_users_own_is_awaited(
    call: Call, manager: RuntimeContextManager, answer: Any, output: Any, status: int
) -> None:
    own = OwnClient(answer)
    manager.register_client("own", own)
    ports = asyncio.run(call({"client_ref": "own", "path": "/x"}, {"input": {"a": 1}}))
    assert (ports["output"], ports["status"]) == (output, status)
    assert own.seen == [("POST", "/x", {"headers": {"idempotency-key": "key-1"}, "json": {"a": 1}})]


def test_limits_hold_for_a_client_of_the_users_own(call: Call, manager: RuntimeContextManager) -> None:
    config = {"client_ref": "own", "path": "/x", "max_response_bytes": 3, "timeout_seconds": 0.05}
    for answer, error in (
        (Answer(503, b""), HTTPStatusError),
        (Answer(200, b"long"), ResponseTooLargeError),
        (None, RequestTimeoutError),
    ):
        manager.register_client("own", OwnClient(answer))
        with pytest.raises(error):
            asyncio.run(call(config))
