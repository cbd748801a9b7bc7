"""Gates: code that needs a tier runs with it and not below, each time, for the tenant whose turn it is."""

from __future__ import annotations

import asyncio
import functools
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from llmteam.licensing import (
    FeatureNotLicensedError,
    LicenseManager,
    LicenseTier,
    enterprise_only,
    professional_only,
    require_enterprise,
    require_professional,
    require_tier,
)
from llmteam.tenancy import TenantContext
from tests.unit.licensing.issuing import NOW, key, settings

C, P, E = LicenseTier


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process without a licence."""
    monkeypatch.setenv("HOME", str(tmp_path))
    LicenseManager.reset()
    yield
    LicenseManager.reset()


def holds(tier: LicenseTier) -> None:
    """Have the process hold a tier."""
    LicenseManager._instance = LicenseManager(tier)


@require_professional
def plain(number: int) -> int:
    """Add one."""
    return number + 1


@require_professional
async def coroutine(number: int) -> int:
    return number + 1


@require_enterprise
async def stream(number: int) -> AsyncIterator[int]:
    for one in range(number):
        yield one


@professional_only
class Engine:
    """An engine."""

    def __init__(self, power: int) -> None:
        self.power = power

    def run(self) -> int:
        return self._fuel() * self.power

    async def run_later(self) -> int:
        return self.power

    def _fuel(self) -> int:
        return 2


def test_below_the_tier_a_function_is_refused_at_its_call() -> None:
    with pytest.raises(FeatureNotLicensedError, match="'plain' needs the licence tier professional") as raised:
        plain(1)

    assert (raised.value.feature, raised.value.required_tier) == ("plain", P)
    holds(P)
    assert plain(1) == 2
    assert (plain.__name__, plain.__doc__) == ("plain", "Add one.")


def test_below_the_tier_a_coroutine_is_refused_when_it_is_awaited() -> None:
    waiting = coroutine(1)

    with pytest.raises(FeatureNotLicensedError):
        asyncio.run(waiting)

    holds(E)
    assert asyncio.run(coroutine(1)) == 2


def test_below_the_tier_a_stream_is_refused_at_its_first_step() -> None:
    async def read() -> list[int]:
        return [one async for one in stream(3)]

    with pytest.raises(FeatureNotLicensedError, match="'stream' needs the licence tier enterprise"):
        asyncio.run(read())

    holds(E)
    assert asyncio.run(read()) == [0, 1, 2]


def test_a_partial_function_is_named_after_what_it_calls() -> None:
    def add(one: int, other: int) -> int:
        return one + other

    guarded = require_tier(E)(functools.partial(functools.partial(add, 1), 2))

    with pytest.raises(FeatureNotLicensedError, match=r"test_a_partial_function.*add' needs"):
        guarded()
    holds(E)
    assert guarded() == 3


def test_what_is_no_function_is_refused_when_it_is_decorated() -> None:
    for wrong in (Engine, 7, "plain"):
        with pytest.raises(TypeError, match="require_tier is for functions"):
            require_tier(P)(wrong)  # type: ignore[type-var]


def test_below_the_tier_an_object_is_not_made() -> None:
    with pytest.raises(FeatureNotLicensedError, match="'Engine' needs the licence tier professional"):
        Engine(3)

    holds(P)
    made = Engine(3)
    assert (made.run(), asyncio.run(made.run_later()), Engine._requires_tier) == (6, 3, P)  # type: ignore[attr-defined]
    assert (Engine.__name__, Engine.__doc__) == ("Engine", "An engine.")


def test_an_object_stops_when_the_tier_does_however_it_came_about() -> None:
    holds(E)
    made = Engine(3)
    copy = pickle.loads(pickle.dumps(made))
    assert copy.run() == 6

    holds(C)

    for one in (made, copy):
        with pytest.raises(FeatureNotLicensedError):
            one.run()
        with pytest.raises(FeatureNotLicensedError):
            asyncio.run(one.run_later())


def test_a_class_that_is_decorated_stays_as_it_is_itself() -> None:
    class Car:
        def drive(self) -> str:
            return "far"

    gated = enterprise_only(Car)

    assert Car().drive() == "far"
    assert not hasattr(Car, "_requires_tier")
    with pytest.raises(FeatureNotLicensedError):
        gated()
    holds(E)
    assert gated().drive() == "far"
    assert isinstance(gated(), Car)


def test_the_licence_of_the_current_tenant_decides_not_the_tier_of_the_process() -> None:
    holds(E)
    manager = LicenseManager.instance()

    async def run() -> None:
        await manager.set_license("acme", P)
        with TenantContext("acme"):
            assert plain(1) == 2
            assert await coroutine(1) == 2
        with TenantContext("globex"), pytest.raises(FeatureNotLicensedError):
            await coroutine(1)
        with TenantContext("globex"), pytest.raises(FeatureNotLicensedError):
            plain(1)

    asyncio.run(run())
    assert plain(1) == 2


def test_a_licence_of_the_process_is_for_its_tenant_or_for_all() -> None:
    def allowed(**changes: str) -> list[bool]:
        manager = LicenseManager(settings=settings(license_key=key(**changes)), clock=lambda: NOW)
        found = []
        for tenant_id in ("acme", "globex"):
            with TenantContext(tenant_id):
                try:
                    require_tier(P, manager=manager)(lambda: None)()
                except FeatureNotLicensedError:
                    found.append(False)
                else:
                    found.append(True)
        return found

    assert allowed() == [True, True]
    assert allowed(tenant_id="acme") == [True, False]


def test_a_gate_may_have_a_manager_of_its_own_and_stands_in_any_thread() -> None:
    own = LicenseManager(E)
    guarded = require_tier(E, manager=own)(lambda: "done")
    found: list[str] = []

    thread = threading.Thread(target=lambda: found.append(guarded()))
    thread.start()
    thread.join(10)

    assert found == ["done"]
