"""Calling handlers of every kind, from a loop and from a thread, in time and inside their runtime."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmteam.canvas.exceptions import NoHandlerError, StepTimeoutError
from llmteam.canvas.execution import Execution
from llmteam.canvas.invoke import LoopThread, StepOutOfMemoryError, call, call_blocking, is_async
from llmteam.canvas.ports import StepHandler
from llmteam.canvas.records import RunHeader, RunOptions
from llmteam.runtime import RuntimeContext
from llmteam.runtime.context import StepContext, current_runtime
from llmteam.tenancy import get_current_tenant
from tests.drawing import graph

Call = Callable[[Execution], Any]

marked: contextvars.ContextVar[str] = contextvars.ContextVar("marked", default="")


def execution(handler: StepHandler | None, *, timeout: float | None = 5.0) -> Execution:
    drawn = graph("a")
    runtime = RuntimeContext("acme", "i", "r", "drawn")
    return Execution(
        header=RunHeader("acme", "r", "i", "drawn", "h", RunOptions(), {}, "r"),
        node=drawn.nodes["a"],
        graph=drawn,
        key=("a", 1),
        fence=1,
        ctx=StepContext(runtime, "a"),
        handler=handler,
        config={"n": 2},
        input=20,
        timeout=timeout,
    )


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(params=["from a loop", "from a thread"])
def called(request: pytest.FixtureRequest, loop: LoopThread) -> Call:
    """Both ways to call."""
    if request.param == "from a loop":
        return lambda made: asyncio.run(call(made, "worker-1"))
    return lambda made: call_blocking(made, loop, "worker-1")


def plain(ctx: StepContext, config: dict[str, Any], value: Any) -> Any:
    return config["n"] + value


async def awaited(ctx: StepContext, config: dict[str, Any], value: Any) -> Any:
    await asyncio.sleep(0)
    return config["n"] + value


class Plain:
    def __call__(self, ctx: StepContext, config: dict[str, Any], value: Any) -> Any:
        return config["n"] + value


class Awaited:
    async def __call__(self, ctx: StepContext, config: dict[str, Any], value: Any) -> Any:
        return config["n"] + value


def gives_an_awaitable(ctx: StepContext, config: dict[str, Any], value: Any) -> Any:
    return awaited(ctx, config, value)


@pytest.mark.parametrize("handler", [plain, awaited, Plain(), Awaited(), gives_an_awaitable])
def test_every_kind_of_handler_can_be_called(called: Call, handler: StepHandler) -> None:
    assert called(execution(handler)) == 22


def test_what_gives_something_to_await_is_known() -> None:
    assert [is_async(handler) for handler in (plain, awaited, Plain(), Awaited())] == [False, True, False, True]


@pytest.mark.parametrize("kind", ["plain", "awaited"])
def test_a_handler_works_inside_its_runtime_and_the_callers_context(called: Call, kind: str) -> None:
    def look(*args: Any) -> Any:
        runtime = current_runtime.get()
        return runtime and runtime.run_id, get_current_tenant(), marked.get()

    async def look_later(*args: Any) -> Any:
        return look()

    marked.set("by the caller")
    handler = look if kind == "plain" else look_later

    assert called(execution(handler)) == ("r", "acme", "by the caller")
    assert current_runtime.get() is None


def test_a_type_without_a_handler_says_where_it_was_looked_for(called: Call) -> None:
    with pytest.raises(NoHandlerError, match=r"'work'.*worker-1"):
        called(execution(None))


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own"), SystemExit(3), KeyboardInterrupt()])
def test_a_handlers_error_is_raised_and_ends_no_loop(loop: LoopThread, error: BaseException) -> None:
    async def work(*args: Any) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call_blocking(execution(work), loop)

    assert raised.value.args == error.args
    assert call_blocking(execution(awaited), loop) == 22, "the loop is there for the next one"


@pytest.mark.parametrize("kind", ["plain", "awaited"])
def test_running_out_of_memory_is_an_error_that_spares_the_process(called: Call, kind: str) -> None:
    def fill(*args: Any) -> None:
        raise MemoryError

    async def fill_later(*args: Any) -> None:
        raise MemoryError

    with pytest.raises(StepOutOfMemoryError, match="'a'"):
        called(execution(fill if kind == "plain" else fill_later))


def test_an_awaited_handler_is_stopped_at_its_deadline(called: Call) -> None:
    stopped = threading.Event()

    async def wait(*args: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    made = execution(wait, timeout=0.05)
    began = time.monotonic()

    with pytest.raises(StepTimeoutError, match=r"'a' timed out after 0.05 s"):
        called(made)

    assert stopped.wait(5)
    assert made.ctx.cancelled.is_set()
    assert time.monotonic() - began < 5


def test_a_plain_handler_is_told_at_its_deadline_and_left_behind() -> None:
    told = threading.Event()

    def wait(ctx: StepContext, config: Any, value: Any) -> None:
        ctx.cancelled.wait(10)
        told.set()

    with pytest.raises(StepTimeoutError):
        asyncio.run(call(execution(wait, timeout=0.05)))

    assert told.wait(5)


def test_without_a_deadline_a_handler_has_all_the_time(called: Call) -> None:
    assert called(execution(awaited, timeout=None)) == 22


def test_all_awaited_handlers_of_a_process_share_one_loop(loop: LoopThread) -> None:
    async def where(*args: Any) -> Any:
        return threading.get_ident(), id(asyncio.get_running_loop())

    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(call_blocking(execution(where), loop))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_loop_of_its_own(loop: LoopThread) -> None:
    assert call_blocking(execution(awaited), loop) == 22
    read, write = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(write, str(call_blocking(execution(awaited), loop)).encode())
        os._exit(0)

    os.waitpid(child, 0)
    assert os.read(read, 2) == b"22"
    os.close(read)
    os.close(write)
