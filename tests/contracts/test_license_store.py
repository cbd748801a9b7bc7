"""Stores of licences: the same records, refusals and places in memory and in Postgres, and what starts make of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.runs import Start
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.stores import MemoryRunStore
from llmteam.db import Database
from llmteam.events import MemoryEventStore
from llmteam.events.postgres import PostgresEventStore
from llmteam.ids import utc_now
from llmteam.licensing import LICENSE_LIMITS, License, LicenseConflictError, LicenseTier, MemoryLicenseStore
from llmteam.licensing.models import NEVER
from llmteam.licensing.postgres import PostgresLicenseStore
from llmteam.licensing.stores import LicenseStore, licensed_starts
from llmteam.tenancy import TenantConfig, TenantLimitExceededError, TenantTier
from llmteam.tenancy.admission import StartLimits, limits_of_tier
from llmteam.tenancy.postgres import PostgresTenantStore
from llmteam.tenancy.stores import MemoryTenantStore, TenantStoreFace
from tests.conformance.desk import TENANT
from tests.conformance.ward import Ward, in_memory_passes, in_postgres_passes
from tests.drawing import draw

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(days=1)
ROW = draw("a -> b")


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> LicenseStore:
    if request.param == "memory":
        return MemoryLicenseStore()
    return PostgresLicenseStore(request.getfixturevalue("database"))


def licence(tier: LicenseTier = LicenseTier.PROFESSIONAL, **given: Any) -> License:
    values: dict[str, Any] = {"expires_at": NOW + 30 * DAY, "issued_at": NOW, "license_id": "lic-1", "signer": "ab" * 8}
    return License("", tier, "Ächme", "ops@acme.example", **{**values, **given})


# -- records


def test_a_licence_comes_back_as_it_was_kept_without_its_key(store: LicenseStore) -> None:
    given = licence(features=["sso"], limits={"teams": 3}, starts_at=NOW, tenant_id="acme", grace_days=3)
    given.key = "LLMT1.secret"

    kept = store.put("acme", given, "ann", NOW)

    assert kept is not None
    assert (kept.version, kept.valid_from, kept.valid_to, kept.set_by, kept.seen_at) == (1, NOW, None, "ann", NOW)
    given.key = ""
    assert kept.license == given
    assert store.current("acme") == kept
    assert store.history("acme") == [kept]
    assert (store.current("globex"), store.history("globex")) == (None, [])


def test_a_licence_that_never_expires_comes_back_so(store: LicenseStore) -> None:
    store.put("acme", License.of_operator(LicenseTier.ENTERPRISE, NOW), "", NOW)

    current = store.current("acme")

    assert current is not None
    assert current.license.expires_at == NEVER == current.license.grace_until


def test_one_licence_follows_the_other_and_both_stay_in_the_history(store: LicenseStore) -> None:
    store.put("acme", licence(LicenseTier.PROFESSIONAL), "ann", NOW)
    store.put("acme", licence(LicenseTier.ENTERPRISE), "bob", NOW + DAY, 1)
    store.put("acme", None, "ann", NOW + 2 * DAY, 2)
    store.put("acme", licence(LicenseTier.COMMUNITY), "ann", NOW + 3 * DAY, 0)

    held = [(one.version, one.license.tier, one.valid_from, one.valid_to) for one in store.history("acme")]

    assert held == [
        (3, LicenseTier.COMMUNITY, NOW + 3 * DAY, None),
        (2, LicenseTier.ENTERPRISE, NOW + DAY, NOW + 2 * DAY),
        (1, LicenseTier.PROFESSIONAL, NOW, NOW + DAY),
    ]


@pytest.mark.parametrize("version", [0, 2])
def test_a_change_of_another_version_than_the_one_that_holds_is_refused(store: LicenseStore, version: int) -> None:
    store.put("acme", licence(), "ann", NOW)

    with pytest.raises(LicenseConflictError, match=f"since its version {version} was read"):
        store.put("acme", licence(LicenseTier.ENTERPRISE), "bob", NOW + DAY, version)

    current = store.current("acme")
    assert current is not None
    assert current.license.tier is LicenseTier.PROFESSIONAL
    with pytest.raises(LicenseConflictError):
        store.put("globex", None, "ann", NOW, 1)


def test_a_clock_that_was_set_back_lets_no_two_licences_hold_at_once(store: LicenseStore) -> None:
    store.put("acme", licence(), "ann", NOW)

    store.put("acme", licence(LicenseTier.ENTERPRISE), "ann", NOW - DAY)

    newer, older = store.history("acme")
    assert (older.valid_from, older.valid_to, newer.valid_from, newer.valid_to) == (NOW, NOW, NOW, None)
    assert newer.seen_at == NOW, "time that was seen does not come back"


def test_the_latest_time_at_which_anybody_looked_is_kept(store: LicenseStore) -> None:
    store.put("acme", licence(), "ann", NOW)

    for moment in (NOW + DAY, NOW):
        store.see("acme", moment)

    current = store.current("acme")
    assert current is not None
    assert current.seen_at == NOW + DAY
    store.see("nobody", NOW)


def test_what_was_revoked_stays_so_before_and_after_it_is_had(store: LicenseStore) -> None:
    assert store.revoke("acme", "lic-1", "ann", NOW) is True
    assert store.revoke("acme", "lic-1", "ann", NOW) is False

    kept = store.put("acme", licence(), "ann", NOW)

    assert kept is not None
    assert kept.revoked
    assert store.is_revoked("acme", "lic-1")
    assert not store.is_revoked("globex", "lic-1")
    assert not store.is_revoked("acme", "lic-2")


def at_once(work: Callable[[int], None], number: int) -> None:
    threads = [threading.Thread(target=work, args=(one,)) for one in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_of_many_who_replace_the_same_version_one_does(store: LicenseStore) -> None:
    done: list[bool] = []

    def change(number: int) -> None:
        try:
            store.put("acme", licence(), str(number), NOW, 0)
        except LicenseConflictError:
            done.append(False)
        else:
            done.append(True)

    at_once(change, 6)

    assert sorted(done) == [False] * 5 + [True]
    assert len(store.history("acme")) == 1


def test_changes_that_name_no_version_follow_each_other(store: LicenseStore) -> None:
    at_once(lambda number: store.put("acme", licence(), str(number), NOW) and None, 3)  # type: ignore[func-returns-value]

    assert [one.version for one in store.history("acme")] == [3, 2, 1]
    assert [one.valid_to is None for one in store.history("acme")] == [True, False, False]


# -- places


def test_a_place_is_taken_once_prolonged_and_given_back(store: LicenseStore) -> None:
    until = NOW + DAY

    assert store.reserve("acme", "teams", "one", until, 2, NOW) is None
    assert store.reserve("acme", "teams", "two", until, 2, NOW) is None
    assert store.reserve("acme", "teams", "three", until, 2, NOW) == 2
    assert store.reserve("acme", "teams", "one", until, 2, NOW) is None, "it is prolonged"
    assert store.reserve("globex", "teams", "three", until, 2, NOW) is None
    assert store.reserve("acme", "snapshots", "three", until, 2, NOW) is None

    assert store.release("acme", "teams", "one") is True
    assert store.release("acme", "teams", "one") is False
    assert store.reserve("acme", "teams", "three", until, 2, NOW) is None


def test_a_place_whose_time_is_over_is_free(store: LicenseStore) -> None:
    store.reserve("acme", "teams", "one", NOW + timedelta(seconds=10), 1, NOW)

    assert store.reserve("acme", "teams", "two", NOW + DAY, 1, NOW + timedelta(seconds=9)) == 1
    assert store.reserve("acme", "teams", "two", NOW + DAY, 1, NOW + timedelta(seconds=10)) is None


def test_places_without_a_limit_are_not_counted(store: LicenseStore) -> None:
    taken = [store.reserve("acme", "teams", str(number), NOW + DAY, None, NOW) for number in range(5)]

    assert taken == [None] * 5


def test_nobody_gets_the_last_place_twice(store: LicenseStore) -> None:
    got: list[int | None] = []

    at_once(lambda number: got.append(store.reserve("acme", "teams", f"w{number}", NOW + DAY, 3, NOW)), 8)

    assert got.count(None) == 3
    assert sorted(one for one in got if one is not None) == [3] * 5


# -- starts


@dataclass
class Desk:
    """A ward whose starts go by tenants' tiers and licences."""

    ward: Ward
    tenants: TenantStoreFace
    licences: LicenseStore
    known: list[str] = field(default_factory=list)

    def tenant(self, tier: TenantTier, **given: Any) -> None:
        self.tenants.add(TenantConfig(TENANT, TENANT, tier, **given))

    def licence(self, tier: LicenseTier, now: datetime | None = None, **given: Any) -> None:
        moment = now or utc_now()
        values: dict[str, Any] = {"expires_at": moment + DAY, "issued_at": moment, "grace_days": 0, **given}
        self.licences.put(TENANT, licence(tier, **values), "ann", moment)

    def start(self, segment: SegmentDefinition = ROW) -> str:
        self.known.append(self.ward.runs.start(Start(TENANT, segment, 1)))
        return self.known[-1]

    def starts(self, segment: SegmentDefinition = ROW) -> tuple[str, float, float]:
        """Start runs until one is refused: the limit, how many there are, how many there may be."""
        for _ in range(30):
            try:
                self.start(segment)
            except TenantLimitExceededError as refused:
                return refused.limit_type, refused.current, refused.maximum
        raise AssertionError("nothing is limited")


def desk_of(request: pytest.FixtureRequest, unknown: StartLimits | None = None) -> Desk:
    if request.param == "memory":
        events, tenants, kept = MemoryEventStore(), MemoryTenantStore(), list[MemoryRunStore]()

        def open_runs(tenant_id: str) -> int:
            found = kept[0].records(tenant_id, limit=1000)
            return sum(not one.status.is_terminal and one.status is not SegmentStatus.PENDING for one in found)

        licences = MemoryLicenseStore(open_runs)
        starts = licensed_starts(lambda one: tenants.start_limits(one) or unknown, licences)
        kept.append(MemoryRunStore(sink=events.add, limits_of=starts))
        return Desk(Ward(kept[0], events, kept[0].sweeps, in_memory_passes(kept[0])), tenants, licences)
    database: Database = request.getfixturevalue("database")
    store = PostgresRunStore(database, unknown_tenants=unknown)
    ward = Ward(store, PostgresEventStore(database), PostgresSweeps(database), in_postgres_passes(database))
    return Desk(ward, PostgresTenantStore(database), PostgresLicenseStore(database))


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest) -> Desk:
    """Each store in turn."""
    return desk_of(request)


@pytest.fixture(params=["memory", "postgres"])
def strict_desk(request: pytest.FixtureRequest) -> Desk:
    """Each store in turn, where tenants without a record have the limits of the starter tier: two at once."""
    return desk_of(request, limits_of_tier(TenantTier.STARTER))


def test_without_a_licence_the_tier_alone_decides(desk: Desk) -> None:
    desk.tenant(TenantTier.STARTER)

    assert desk.starts() == ("concurrent_pipelines", 2, 2)


def test_of_tier_and_licence_the_lower_limit_counts(desk: Desk) -> None:
    desk.tenant(TenantTier.PROFESSIONAL)
    desk.licence(LicenseTier.PROFESSIONAL)

    assert desk.starts() == ("concurrent_pipelines", 5, 5)

    desk.licence(LicenseTier.ENTERPRISE)
    assert desk.starts() == ("concurrent_pipelines", 10, 10), "runs beyond a limit go on, and one that is raised holds"
    desk.licence(LicenseTier.PROFESSIONAL)
    assert desk.starts()[2] == 5
    assert {desk.ward.store.record(TENANT, one).status for one in desk.known} == {SegmentStatus.RUNNING}  # type: ignore[union-attr]


def test_a_licence_counts_where_the_tenant_has_no_record(desk: Desk) -> None:
    desk.licence(LicenseTier.ENTERPRISE, limits={"concurrent_pipelines": 2})

    assert desk.starts() == ("concurrent_pipelines", 2, 2)


def test_a_licence_and_the_tier_of_tenants_without_a_record(strict_desk: Desk) -> None:
    strict_desk.licence(LicenseTier.PROFESSIONAL)

    assert strict_desk.starts() == ("concurrent_pipelines", 2, 2)


def test_a_licence_that_is_over_is_worth_the_lowest_tier(desk: Desk) -> None:
    lowest = LICENSE_LIMITS[LicenseTier.COMMUNITY]
    desk.tenant(TenantTier.ENTERPRISE)
    desk.licence(LicenseTier.ENTERPRISE, utc_now() - 3 * DAY)

    most = lowest.max_concurrent_pipelines

    assert desk.starts() == ("concurrent_pipelines", most, most)


def test_a_licence_holds_during_its_days_of_grace(desk: Desk) -> None:
    desk.licence(LicenseTier.PROFESSIONAL, utc_now() - 3 * DAY, grace_days=4)

    assert desk.starts() == ("concurrent_pipelines", 5, 5)


def test_a_licence_that_was_revoked_is_worth_the_lowest_tier(desk: Desk) -> None:
    desk.licence(LicenseTier.ENTERPRISE)
    desk.start()

    desk.licences.revoke(TENANT, "lic-1", "ann", utc_now())

    assert desk.starts() == ("concurrent_pipelines", 1, 1)


def test_a_clock_that_was_set_back_gives_no_time_back(desk: Desk) -> None:
    desk.licence(LicenseTier.PROFESSIONAL, utc_now())

    desk.licences.see(TENANT, utc_now() + 10 * DAY)

    assert desk.starts()[2] == 1


def test_a_start_notes_that_time_goes_by(desk: Desk) -> None:
    desk.licence(LicenseTier.PROFESSIONAL, utc_now() - 3 * DAY, expires_at=utc_now() + DAY)
    before = utc_now()

    desk.start()

    current = desk.licences.current(TENANT)
    assert current is not None
    assert current.seen_at >= before


def test_a_licence_limits_the_agents_of_a_run(desk: Desk) -> None:
    desk.licence(LicenseTier.PROFESSIONAL, limits={"agents": 1})

    with pytest.raises(TenantLimitExceededError) as raised:
        desk.start(two_agents())
    assert (raised.value.limit_type, raised.value.current, raised.value.maximum) == ("agents_per_pipeline", 2, 1)
    assert desk.known == []


def two_agents() -> SegmentDefinition:
    steps = [
        {"step_id": name, "step_type": "llm_agent", "config": {"llm_ref": "offline", "prompt": "?"}}
        for name in ("a", "b")
    ]
    edges = [{"source_step": "a", "target_step": "b"}]
    return SegmentDefinition.from_dict({"segment_id": "two", "name": "Two", "steps": steps, "edges": edges})


def test_places_that_are_reserved_are_those_that_starts_take(desk: Desk) -> None:
    desk.licence(LicenseTier.ENTERPRISE, limits={"pipelines": 3})
    now = utc_now()
    desk.start()

    assert desk.licences.reserve(TENANT, "concurrent_pipelines", "later", now + DAY, 3, now) is None
    desk.start()
    assert desk.licences.reserve(TENANT, "concurrent_pipelines", "never", now + DAY, 3, now) == 3
    assert desk.starts() == ("concurrent_pipelines", 3, 3)

    desk.licences.release(TENANT, "concurrent_pipelines", "later")
    desk.start()
