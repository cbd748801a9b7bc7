"""Webhooks and APIs against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from llmteam.actions import ActionConfig, ActionResult, ActionStatus, ActionType
from llmteam.crypto import verify_webhook
from llmteam.ids import utc_now
from llmteam.net import OutboundGuard, use_guard
from llmteam.runtime import RuntimeContextManager
from tests.unit.actions.conftest import Stand
from tests.unit.actions.test_executor import in_step
from tests.unit.net.loopback import Loopback
from tests.unit.net.test_client import drip
from tests.waiting import wait_until_async

JSON = "application/json"


def register(stand: Stand, server: Loopback, path: str = "/hook", **fields: Any) -> None:
    kind = fields.pop("action_type", ActionType.REST_API)
    stand.registry.register(ActionConfig("hook", kind, f"{server.url}{path}", **fields))


class Secrets:
    def get_secret(self, secret_id: str) -> str:
        return {"token": "canary-token", "signing": "canary-signing-key-of-32-letters", "other": "canary-other"}[
            secret_id
        ]


def with_secrets(stand: Stand, **call: Any) -> ActionResult:
    manager = RuntimeContextManager()
    manager.register_secrets_provider(Secrets())  # type: ignore[arg-type]

    async def work() -> ActionResult:
        with manager.activate(manager.create_runtime("acme", "", "run-1")):
            return await stand.executor().execute("hook", **call)

    return asyncio.run(work())


def test_the_payload_travels_as_json_with_the_headers_of_the_contract(server: Loopback, stand: Stand) -> None:
    register(stand, server, headers={"X-Mode": "a", "X-Tenant-ID": "forged"})

    result = stand.execute("hook", {"amount": 5}, tenant_id="acme", correlation_id="c-1")

    (got,) = server.received
    assert (got.method, got.body) == ("POST", b'{"amount":5}')
    assert (got.headers["content-type"], got.headers["x-mode"]) == ("application/json", "a")
    assert (got.headers["x-correlation-id"], got.headers["x-tenant-id"]) == ("c-1", "acme")
    assert len(got.headers["idempotency-key"]) == 36
    assert (result.status, result.response_code, result.response_data) == (ActionStatus.COMPLETED, 200, {"ok": True})


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
def test_methods_without_a_body_send_the_payload_in_the_query(server: Loopback, stand: Stand, method: str) -> None:
    register(stand, server, "/hook?v=1", method=method)

    stand.execute("hook", {"a": "x y", "b": [1, 2], "c": True, "d": None})

    (got,) = server.received
    assert (got.path, got.body, got.method) == ("/hook?v=1&a=x+y&b=1&b=2&c=true&d=null", b"", method)


@pytest.mark.parametrize(
    ("fields", "header", "value"),
    [
        ({"auth_type": "bearer", "auth_config": {"token": "t"}}, "authorization", "Bearer t"),
        ({"auth_type": "bearer", "secret_ref": "token"}, "authorization", "Bearer canary-token"),
        (
            {"auth_type": "basic", "auth_config": {"username": "u", "password": "p"}},
            "authorization",
            "Basic dTpw",
        ),
        ({"auth_type": "api_key", "auth_config": {"key": "k"}}, "x-api-key", "k"),
        (
            {"auth_type": "api_key", "auth_config": {"header": "X-Mine"}, "secret_ref": "token"},
            "x-mine",
            "canary-token",
        ),
        ({"headers": {"X-Key": "v1 ${secret:other}"}}, "x-key", "v1 canary-other"),
    ],
)
def test_authentication_is_added_at_the_call(
    server: Loopback, stand: Stand, fields: dict[str, Any], header: str, value: str
) -> None:
    register(stand, server, **fields)

    result = with_secrets(stand, payload={})

    assert server.received[0].headers[header] == value
    assert result.success
    assert "canary" not in repr(stand.registry.get_config("hook")) + repr(result) + repr(stand.audited("acme"))


def test_a_body_is_signed_as_notifications_are(server: Loopback, stand: Stand) -> None:
    register(stand, server, signing_secret_ref="signing")

    with_secrets(stand, payload={"amount": 5})

    (got,) = server.received
    key = "canary-signing-key-of-32-letters"
    assert verify_webhook(key, got.headers["x-llmteam-signature"], got.body, utc_now())
    assert got.headers["content-type"] == "application/json"


def test_a_missing_secret_is_a_failure_and_nothing_is_sent(server: Loopback, stand: Stand) -> None:
    register(stand, server, auth_type="bearer", secret_ref="unknown")

    result = with_secrets(stand, payload={})

    assert (result.status, result.error_type, server.received) == (ActionStatus.FAILED, "ResourceNotFoundError", [])


@pytest.mark.parametrize(("status", "retries"), [(400, 0), (404, 0), (500, 2), (503, 2), (429, 2)])
def test_a_status_of_400_or_more_is_a_failure(server: Loopback, stand: Stand, status: int, retries: int) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(status, b'{"why": 1}', Content_Type="application/json")
    register(stand, server, retry_count=2)

    result = stand.execute("hook", {})

    assert (result.status, result.response_code, result.error_type) == (ActionStatus.FAILED, status, "HTTPStatusError")
    assert str(status) in result.error_message
    assert (result.response_data, result.retry_count) == ({"why": 1}, retries)


def test_every_attempt_carries_the_same_key(server: Loopback, stand: Stand) -> None:
    answers = iter([503, 503, 200])
    server.routes["/hook"] = lambda handler: handler.answer(next(answers), b"", Retry_After="3")
    register(stand, server)

    result = stand.execute("hook", {}, idempotency_key="order-17")

    assert (result.success, result.retry_count, stand.waits) == (True, 2, [3.0, 3.0])
    assert [got.headers["idempotency-key"] for got in server.received] == ["order-17"] * 3


def test_without_a_key_what_could_be_done_twice_is_sent_once(server: Loopback, stand: Stand) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(503)
    register(stand, server, idempotency_header="")

    result = stand.execute("hook", {})

    assert (result.retry_count, len(server.received)) == (0, 1)
    assert "idempotency-key" not in server.received[0].headers


def test_the_key_goes_by_the_name_that_the_other_side_knows(server: Loopback, stand: Stand) -> None:
    register(stand, server, idempotency_header="X-Request-Id")

    stand.execute("hook", {}, idempotency_key="k")

    assert server.received[0].headers["x-request-id"] == "k"


def test_a_redirect_is_not_followed_and_no_success(server: Loopback, stand: Stand) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(302, Location="/other")
    register(stand, server)

    result = stand.execute("hook", {})

    assert (result.status, result.response_code, len(server.received)) == (ActionStatus.FAILED, 302, 1)


def test_a_redirect_is_followed_where_the_action_says_so(server: Loopback, stand: Stand) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(302, Location="/other")
    server.routes["/other"] = lambda handler: handler.answer(200, b'"there"', Content_Type="application/json")
    register(stand, server, method="GET", follow_redirects=True)

    assert stand.execute("hook", {}).response_data == "there"


def test_an_answer_over_the_limit_is_not_read(server: Loopback, stand: Stand) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(200, b"x" * 2000)
    register(stand, server, max_response_bytes=1000)

    result = stand.execute("hook", {})

    assert (result.status, result.error_type, len(server.received)) == (ActionStatus.FAILED, "ResponseTooLargeError", 1)


def test_an_answer_that_takes_too_long_is_a_timeout(server: Loopback, stand: Stand) -> None:
    server.routes["/hook"] = drip
    register(stand, server, timeout=0.3, retry_count=0)

    result = stand.execute("hook", {})

    assert (result.status, result.error_type) == (ActionStatus.TIMEOUT, "TimeoutError")


def test_a_cancelled_call_lets_go_of_its_connection(server: Loopback, stand: Stand) -> None:
    hung_up = threading.Event()

    def watch(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        handler.rfile.read(1)
        hung_up.set()

    server.routes["/hook"] = watch
    register(stand, server, timeout=60)

    async def cancel() -> None:
        task = asyncio.create_task(stand.executor().execute("hook", {}))
        await wait_until_async(lambda: server.received, "the request to arrive")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until_async(hung_up.is_set, "the connection to be closed")

    asyncio.run(cancel())


def test_a_private_address_is_refused_unless_the_operator_trusts_it(server: Loopback, stand: Stand) -> None:
    use_guard(OutboundGuard())
    register(stand, server)

    refused = stand.execute("hook", {})

    assert (refused.status, refused.error_type, server.received) == (ActionStatus.FAILED, "OutboundRefusedError", [])
    register(stand, server, trusted=True)
    assert stand.execute("hook", {}).success


def test_our_own_servers_are_refused_even_when_they_are_trusted(server: Loopback, stand: Stand) -> None:
    use_guard(OutboundGuard(refuse_always=[server.endpoint]))
    register(stand, server, trusted=True)

    assert stand.execute("hook", {}).error_type == "OutboundRefusedError"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_the_secret_path_of_an_address_is_in_nothing_that_is_kept(server: Loopback, stand: Stand, status: int) -> None:
    server.routes["/services/s3cret"] = lambda handler: handler.answer(status, Location="/s3cret")
    register(stand, server, "/services/s3cret?sig=s3cret", retry_count=0)

    result = stand.execute("hook", {}, tenant_id="acme")

    assert server.received[0].path.startswith("/services/s3cret")
    audited = [(record.error_message, record.metadata) for record in stand.audited("acme")]
    assert "s3cret" not in repr(result) + result.error_message + repr(audited)


def test_a_text_payload_type_is_a_failure_that_shows_nothing(server: Loopback, stand: Stand) -> None:
    register(stand, server, headers={"Content-Type": "text/plain"})

    result = stand.execute("hook", {"a": "s3cret"})

    assert (result.error_type, server.received) == ("ActionDataError", [])
    assert "s3cret" not in result.error_message


def test_a_form_is_sent_as_one(server: Loopback, stand: Stand) -> None:
    register(stand, server, headers={"Content-Type": "application/x-www-form-urlencoded"})

    stand.execute("hook", {"a": 1, "b": "x y"})

    assert server.received[0].body == b"a=1&b=x+y"


def test_an_answer_that_is_not_the_json_it_promises_is_a_failure(server: Loopback, stand: Stand) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(200, b"{", Content_Type="application/json")
    register(stand, server)

    assert stand.execute("hook", {}).error_type == "InvalidResponseError"


def test_calls_share_their_connections(server: Loopback, stand: Stand) -> None:
    register(stand, server)

    for number in range(3):
        assert stand.execute("hook", {"n": number}).success

    assert len({got.client for got in server.received}) == 1
    assert [json.loads(got.body)["n"] for got in server.received] == [0, 1, 2]


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_that_holds_a_secret_of_its_step_is_kept_nowhere(server: Loopback, stand: Stand, status: int) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(
        status, b'{"echo": "Bearer canary-token"}', Content_Type=JSON
    )
    register(stand, server, auth_type="bearer", secret_ref="token")
    manager = RuntimeContextManager()
    manager.register_secrets_provider(Secrets())  # type: ignore[arg-type]
    runtime = manager.create_runtime("acme", "", "run-1")

    result = in_step(stand, runtime, lambda: stand.executor().execute("hook", {}))

    assert (result.status, result.error_type, result.response_data) == (ActionStatus.FAILED, "SecretShownError", None)
    assert "canary" not in repr([stand.attempts.records("acme", "run-1")[0].document, result.to_dict()])
