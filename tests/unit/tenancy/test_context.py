from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.tenancy import (
    TenantContext,
    TenantContextError,
    TenantContextStack,
    current_tenant,
    get_current_tenant,
    require_tenant_context,
)


@dataclass
class Config:
    tenant_id: str


def test_outside_any_context_no_tenant_is_current():
    assert current_tenant.get() == ""
    assert get_current_tenant() == ""
    with pytest.raises(TenantContextError, match="enter one with TenantContext"):
        require_tenant_context()


def test_inside_a_context_its_tenant_is_current_and_nesting_restores_the_outer_one():
    with TenantContext("acme") as outer:
        assert outer.is_active()
        with TenantContext("globex"):
            assert require_tenant_context() == "globex"
            assert not outer.is_active()
        assert get_current_tenant() == "acme"
    assert get_current_tenant() == ""


def test_a_context_that_is_left_by_an_exception_restores_the_outer_one_and_lets_it_through():
    with pytest.raises(ZeroDivisionError), TenantContext("acme"):
        raise ZeroDivisionError
    assert get_current_tenant() == ""


def test_one_context_may_be_entered_inside_itself_and_nothing_stays_behind():
    context = TenantContext("acme")
    with context:
        with context:
            pass
        assert get_current_tenant() == "acme"
    assert get_current_tenant() == ""


async def _both(context: TenantContext, gate: asyncio.Event) -> str:
    async with context:
        await gate.wait()
        return require_tenant_context()


async def _shared_by_tasks() -> list[str]:
    gate, context = asyncio.Event(), TenantContext("acme")
    tasks = [asyncio.create_task(_both(context, gate)) for _ in range(3)]
    tasks.append(asyncio.create_task(_both(TenantContext("globex"), gate)))
    await asyncio.sleep(0)
    gate.set()
    return await asyncio.gather(*tasks)


def test_tasks_may_share_one_context_and_never_see_each_others_tenant():
    assert asyncio.run(_shared_by_tasks()) == ["acme", "acme", "acme", "globex"]


def test_a_task_made_inside_a_context_inherits_its_tenant():
    async def main() -> str:
        async with TenantContext("acme"):
            task = asyncio.create_task(asyncio.to_thread(get_current_tenant))
        return await task

    assert asyncio.run(main()) == "acme"


def test_a_new_thread_begins_without_a_tenant():
    seen: list[str] = []
    with TenantContext("acme"):
        thread = threading.Thread(target=lambda: seen.append(get_current_tenant()))
        thread.start()
        thread.join()
    assert seen == [""]


def test_contexts_are_left_in_the_reverse_order_of_entering():
    outer, inner = TenantContext("acme"), TenantContext("globex")
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(TenantContextError, match="not the innermost"):
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)
    assert get_current_tenant() == ""


@pytest.mark.parametrize("bad", ["", " acme", "a b", "a\n", "x" * 256, "a\x00", "-a"])
def test_an_unusable_tenant_id_is_refused_at_construction(bad: str):
    with pytest.raises(ValueError, match="tenant_id"):
        TenantContext(bad)


def test_a_context_keeps_the_configuration_it_was_given_and_refuses_another_tenants():
    config = Config("acme")
    assert TenantContext("acme", config).get_config() is config
    assert TenantContext("acme").get_config() is None
    with pytest.raises(TenantContextError, match="'globex' was given for 'acme'"):
        TenantContext("acme", Config("globex"))


@given(st.lists(st.sampled_from(["push", "pop", "clear"]), max_size=30))
def test_a_stack_always_makes_its_innermost_context_the_current_tenant(calls: list[str]):
    stack, model = TenantContextStack(), []
    for number, call in enumerate(calls):
        if call == "push":
            model.append(f"tenant{number}")
            assert stack.push(model[-1]).tenant_id == model[-1]
        elif call == "pop":
            popped = stack.pop()
            assert (popped.tenant_id if popped else None) == (model.pop() if model else None)
        else:
            stack.clear()
            model.clear()
        innermost = stack.current()
        assert stack.depth() == len(model)
        assert (innermost.tenant_id if innermost else "") == get_current_tenant() == (model[-1] if model else "")
    stack.clear()
    assert get_current_tenant() == ""
