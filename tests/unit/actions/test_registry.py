"""What can be registered, and what handler it gets."""

from __future__ import annotations

import asyncio

import pytest

from llmteam.actions import (
    ActionConfig,
    ActionContext,
    ActionHandler,
    ActionRegistry,
    ActionResult,
    ActionStatus,
    ActionType,
    FunctionActionHandler,
    InvalidActionError,
    RestActionHandler,
    WebhookActionHandler,
    default_registry,
)


class Own(ActionHandler):
    async def execute(self, context: ActionContext) -> ActionResult:
        return ActionResult(context.action_name, ActionStatus.COMPLETED, response_data="own")


def double(data: dict[str, int], state: dict[str, int]) -> int:
    return 2 * data["number"]


def test_webhooks_and_apis_get_the_http_handler() -> None:
    registry = ActionRegistry()

    registry.register(ActionConfig("hook", ActionType.WEBHOOK, "https://x.example/hook"))
    registry.register(ActionConfig("api", ActionType.REST_API, "https://x.example/api"))

    assert type(registry.get_handler("hook")) is WebhookActionHandler
    assert type(registry.get_handler("api")) is RestActionHandler
    assert registry.list_actions() == ["hook", "api"]


@pytest.mark.parametrize("kind", [ActionType.GRPC, ActionType.DATABASE, ActionType.MESSAGE_QUEUE])
def test_a_type_without_a_handler_of_its_own_needs_one(kind: ActionType) -> None:
    registry = ActionRegistry()

    with pytest.raises(ValueError, match=kind.name):
        registry.register(ActionConfig("a", kind))

    registry.register(ActionConfig("a", kind), Own())
    assert registry.has_action("a")


def test_grpc_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(InvalidActionError, match="handler of your own, or call the service by its REST gateway"):
        ActionRegistry().register(ActionConfig("a", ActionType.GRPC))


@pytest.mark.parametrize("endpoint", [None, "nowhere", "json:missing", "no.such.module:f", "json:JSONDecoder.x"])
def test_a_function_has_to_be_importable(endpoint: str | None) -> None:
    with pytest.raises(ValueError, match="'a'"):
        ActionRegistry().register(ActionConfig("a", ActionType.FUNCTION, endpoint))


def test_a_function_is_found_by_its_name() -> None:
    registry = ActionRegistry(distributed=True)

    registry.register(ActionConfig("loads", ActionType.FUNCTION, "json:loads"))

    handler = registry.get_handler("loads")
    assert isinstance(handler, FunctionActionHandler)
    assert handler.func.__module__ == "json"


@pytest.mark.parametrize("registry", [ActionRegistry(distributed=True), default_registry])
def test_where_other_processes_take_actions_closures_are_refused(registry: ActionRegistry) -> None:
    with pytest.raises(InvalidActionError, match="known to this process only"):
        registry.register_function("closure", lambda data, state: 1)

    assert not registry.has_action("closure")


def test_where_only_this_process_does_they_are_not() -> None:
    registry = ActionRegistry()
    registry.register_function("closure", lambda data, state: data["a"] + 1, timeout_seconds=5)
    handler = registry.get_handler("closure")
    assert handler is not None

    result = asyncio.run(handler.execute(ActionContext("closure", "", "", "acme", {"a": 1})))

    assert result.response_data == 2
    config = registry.get_config("closure")
    assert config is not None
    assert config.timeout_seconds == 5


@pytest.mark.parametrize("url", ["", "ftp://x.example", "https://user:s3cret@x.example", "x.example/s3cret"])
def test_an_address_that_is_none_is_refused_at_once_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidActionError) as refused:
        ActionRegistry().register_webhook("hook", url)

    assert "s3cret" not in str(refused.value)


def test_a_schema_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidActionError, match="request_schema"):
        ActionRegistry().register_webhook("hook", "https://x.example", request_schema={"type": "thing"})


def test_headers_that_could_smuggle_are_refused_at_once() -> None:
    for headers in ({"Host": "a"}, {"X-A": "a\r\nX-B: c"}, {"X-A": "${env:HOME}"}):
        config = ActionConfig("hook", ActionType.WEBHOOK, "https://x.example", headers=headers)
        with pytest.raises(InvalidActionError):
            ActionRegistry().register(config)


def test_the_last_registration_counts_and_can_be_taken_back() -> None:
    registry = ActionRegistry()
    registry.register_webhook("a", "https://x.example", "PUT")
    registry.register_function("a", double)

    assert isinstance(registry.get_handler("a"), FunctionActionHandler)
    registry.unregister("a")
    registry.unregister("a")
    assert (registry.get_handler("a"), registry.get_config("a"), registry.has_action("a")) == (None, None, False)
    registry.register_function("b", double)
    registry.clear()
    assert registry.list_actions() == []
