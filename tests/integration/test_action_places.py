"""Actions that reach a database or a broker, against real ones."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kombu.connection import Connection
from sqlalchemy import create_engine, text

from llmteam.actions import (
    ActionConfig,
    ActionExecutor,
    ActionRegistry,
    ActionResult,
    ActionStatus,
    ActionType,
    DatabaseActionHandler,
    InvalidActionError,
    MessageQueueActionHandler,
    SqlEngine,
)
from llmteam.dispatch import Address
from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.runtime import RuntimeContextManager
from tests.services import PostgresService, redis_client
from tests.silent import Silent


@pytest.fixture
def shop(postgres: PostgresService) -> Iterator[RuntimeContextManager]:
    """A runtime with a database of somebody's own, in which there are orders."""
    engine = create_engine(postgres.create(migrated=False).replace("postgresql://", "postgresql+psycopg2://"))
    owner = create_engine(engine.url.set(username="postgres"))
    with owner.begin() as connection:
        connection.execute(
            text("CREATE TABLE public.orders (id int PRIMARY KEY, note text, at timestamptz, sum numeric)")
        )
        connection.execute(text("INSERT INTO public.orders VALUES (1, 'first', '2026-01-02T03:04:05Z', 12.50)"))
        connection.execute(text("GRANT ALL ON public.orders TO public"))
    owner.dispose()
    manager = RuntimeContextManager()
    client = SqlEngine(engine)
    manager.register_client("shop", client)
    yield manager
    client.close()
    postgres.drop_all()


def run(manager: RuntimeContextManager, statement: str, payload: dict[str, Any], **fields: Any) -> ActionResult:
    config = ActionConfig("sql", ActionType.DATABASE, "shop", statement=statement, retry_count=0, **fields)
    registry = ActionRegistry()
    registry.register(config, DatabaseActionHandler(config))

    async def work() -> ActionResult:
        with manager.activate(manager.create_runtime("acme", "")):
            return await ActionExecutor(registry).execute("sql", payload)

    return asyncio.run(work())


def test_a_statement_reads_with_bound_parameters(shop: RuntimeContextManager) -> None:
    result = run(shop, "SELECT * FROM public.orders WHERE id = :id", {"id": 1}, read_only=True)

    assert result.response_data == {
        "rows": [{"id": 1, "note": "first", "at": "2026-01-02T03:04:05+00:00", "sum": "12.50"}],
        "row_count": 1,
    }


def test_what_a_run_says_is_never_read_as_sql(shop: RuntimeContextManager) -> None:
    evil = "x'; DELETE FROM public.orders; --"

    written = run(shop, "INSERT INTO public.orders (id, note) VALUES (:id, :note)", {"id": 2, "note": evil})

    assert written.response_data == {"rows": [], "row_count": 1}
    found = run(shop, "SELECT note FROM public.orders ORDER BY id;", {})
    assert [row["note"] for row in found.response_data["rows"]] == ["first", evil]


def test_a_read_only_action_cannot_write(shop: RuntimeContextManager) -> None:
    result = run(shop, "UPDATE public.orders SET note = :note", {"note": "s3cret"}, read_only=True)

    assert (result.status, result.error_type) == (ActionStatus.FAILED, "ActionDataError")
    assert "25006" in result.error_message
    assert "s3cret" not in result.error_message


@pytest.mark.parametrize("payload", [{}, {"id": 1, "more": 2}, {"other": 1}])
def test_parameters_that_do_not_fit_are_refused(shop: RuntimeContextManager, payload: dict[str, Any]) -> None:
    result = run(shop, "SELECT :id", payload)

    assert (result.status, result.error_type) == (ActionStatus.FAILED, "ActionDataError")


def test_more_than_one_statement_is_refused(shop: RuntimeContextManager) -> None:
    assert "single one" in run(shop, "SELECT 1; DELETE FROM public.orders", {}).error_message


def test_a_value_that_the_database_refuses_is_not_shown(shop: RuntimeContextManager) -> None:
    result = run(shop, "SELECT CAST(:id AS integer)", {"id": "s3cret"})

    assert result.error_type == "ActionDataError"
    assert "s3cret" not in result.error_message


def test_a_statement_that_takes_too_long_is_over_on_the_server_too(shop: RuntimeContextManager) -> None:
    result = run(shop, "SELECT pg_sleep(:n)", {"n": 30}, timeout=0.2)

    assert (result.status, result.error_type) == (ActionStatus.TIMEOUT, "TimeoutError")
    still = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    while run(shop, still, {}).response_data["rows"][0]["n"]:
        pass


def test_rows_and_bytes_have_limits(shop: RuntimeContextManager) -> None:
    many = run(shop, "SELECT generate_series(1, 20000) AS n", {})
    large = run(shop, "SELECT repeat('x', 3000) AS x", {}, max_response_bytes=1000)

    assert ("10,000 rows" in many.error_message, large.error_type) == (True, "PayloadTooLargeError")


def test_every_kind_of_value_is_json(shop: RuntimeContextManager) -> None:
    statement = (
        "SELECT '\\x6162'::bytea AS b, interval '90 s' AS i, date '2026-01-02' AS d, NULL AS n, '{\"a\": 1}'::json AS j"
    )

    (row,) = run(shop, statement.replace("::", "\\:\\:"), {}).response_data["rows"]

    assert row == {"b": base64.b64encode(b"ab").decode(), "i": 90.0, "d": "2026-01-02", "n": None, "j": {"a": 1}}


def test_a_client_that_is_no_database_is_said_to_be_none() -> None:
    class Echo:
        async def request(self, method: str, path: str, **kwargs: Any) -> str:
            return path

    manager = RuntimeContextManager()
    manager.register_client("shop", Echo())

    assert "no database" in run(manager, "SELECT 1", {}).error_message


def test_a_database_that_is_away_may_be_there_later() -> None:
    manager = RuntimeContextManager()
    manager.register_client("shop", SqlEngine("postgresql+psycopg2://u:s3cret@127.0.0.1:9/x"))

    result = run(manager, "SELECT 1", {})

    assert (result.error_type, result.retryable) == ("InfrastructureError", True)
    assert "s3cret" not in result.error_message


def test_a_database_that_says_nothing_is_given_up_before_its_step_is() -> None:
    with (
        closing(Silent()) as silent,
        closing(SqlEngine(f"postgresql://u:s3cret@{silent.address}/x")) as client,
        pytest.raises(InfrastructureError) as caught,
    ):
        client.run("SELECT 1", {}, read_only=True, seconds=1.0, max_bytes=1000)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "nonsense", "mysql+nothing://x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        SqlEngine(url)


@pytest.mark.parametrize("fields", [{"statement": "SELECT 1"}, {"endpoint": "shop"}])
def test_an_action_without_statement_or_database_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidActionError, match="statement"):
        DatabaseActionHandler(ActionConfig("sql", ActionType.DATABASE, **fields))


def publish(endpoint: str, broker_url: str, **call: Any) -> ActionResult:
    config = ActionConfig("tell", ActionType.MESSAGE_QUEUE, endpoint, headers={"X-Kind": "order"}, retry_count=0)
    registry = ActionRegistry()
    registry.register(config, MessageQueueActionHandler(config, broker_url=broker_url))
    return asyncio.run(ActionExecutor(registry).execute("tell", **call))


def test_a_message_arrives_where_another_application_reads_it(clean_valkey: str) -> None:
    result = publish("orders", clean_valkey, payload={"order": 17}, tenant_id="acme", idempotency_key="k-1")

    assert (result.success, result.response_data) == (True, {"message_id": "k-1"})
    with Connection(clean_valkey) as connection:
        queue = connection.SimpleQueue("orders")
        message = queue.get(timeout=10)
        message.ack()
        queue.close()
    assert message.payload == {"order": 17}
    assert (message.headers["X-Kind"], message.headers["x-tenant-id"]) == ("order", "acme")
    assert message.properties["message_id"] == "k-1"


def test_a_message_goes_through_an_exchange_to_the_queues_behind_it(clean_valkey: str) -> None:
    from kombu.entity import Exchange, Queue

    exchange = Exchange("shop", type="topic")
    with Connection(clean_valkey) as connection:
        Queue("all-orders", exchange, routing_key="order.#")(connection.default_channel).declare()

    assert publish("topic:shop/order.new", clean_valkey, payload={"order": 18}).success

    with redis_client(clean_valkey) as client:
        (raw,) = client.lrange("all-orders", 0, -1)
    assert json.loads(base64.b64decode(json.loads(raw)["body"])) == {"order": 18}


@pytest.mark.parametrize(
    "endpoint", ["llmteam.control", "llmteam", "llmteam.x/key", "x/llmteam.io", "", "/key", "a\nb", "odd:x/key"]
)
def test_our_own_queues_are_out_of_reach(endpoint: str) -> None:
    with pytest.raises(InvalidActionError):
        MessageQueueActionHandler(ActionConfig("tell", ActionType.MESSAGE_QUEUE, endpoint))
    with pytest.raises(ConfigurationError):
        Address.parse(endpoint)


def test_a_broker_that_is_away_may_be_there_later_and_its_address_is_not_shown() -> None:
    result = publish("orders", "redis://:s3cret@127.0.0.1:9/0", payload={})

    assert (result.status, result.error_type, result.retryable) == (ActionStatus.FAILED, "InfrastructureError", True)
    assert "s3cret" not in result.error_message
