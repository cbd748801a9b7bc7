"""A line for each method of the stores of licences and of attempts at external actions."""

from __future__ import annotations

from datetime import timedelta

from llmteam.actions.models import ActionResult, ActionStatus
from llmteam.actions.postgres import PostgresAttemptStore
from llmteam.actions.stores import Call, MemoryAttemptStore
from llmteam.ids import utc_now
from llmteam.licensing.limits import LicenseTier
from llmteam.licensing.models import License
from llmteam.licensing.postgres import PostgresLicenseStore
from llmteam.licensing.stores import MemoryLicenseStore
from tests.security.walking import Group, Line, Scene, plain

LIMIT = "teams"


def _license(scene: Scene, owner: str) -> License:
    now = utc_now()
    return License("", LicenseTier.ENTERPRISE, owner, "", now + timedelta(days=9), now, license_id=scene.things.license)


def _seed_licenses(scene: Scene) -> None:
    scene.things.license = "l-1"
    scene.store.put(scene.owner, _license(scene, scene.canary), "ann", utc_now())
    scene.store.revoke(scene.owner, scene.things.license, "ann", utc_now())
    scene.store.reserve(scene.owner, LIMIT, "job", utc_now() + timedelta(days=1), 5, utc_now())


def _reserve(scene: Scene) -> int | None:
    """Another place beside those that are taken: how many they are is told to their tenant alone."""
    found: int | None = scene.store.reserve(scene.me, LIMIT, "mine", utc_now() + timedelta(days=1), 1, utc_now())
    assert found is None or scene.me == scene.owner, "a stranger's place is taken by somebody else"
    return found


LICENSES = Group(
    stores={
        PostgresLicenseStore: lambda s: PostgresLicenseStore(s.db),
        MemoryLicenseStore: lambda s: MemoryLicenseStore(),
    },
    seed=_seed_licenses,
    look=lambda s: (s.store.history(s.owner), [s.store.is_revoked(s.owner, one) for one in ("l-1", "l-2")]),
    lines={
        "call": plain(lambda s: s.store.call(lambda: 1), "calls what it is given"),
        "current": Line(lambda s: s.store.current(s.me)),
        "history": Line(lambda s: s.store.history(s.me)),
        "put": Line(lambda s: s.store.put(s.me, _license(s, "mine"), "eve", utc_now())),
        "see": Line(lambda s: s.store.see(s.me, utc_now() + timedelta(days=1))),
        "revoke": Line(lambda s: s.store.revoke(s.me, "l-2", "eve", utc_now())),
        "is_revoked": Line(lambda s: s.store.is_revoked(s.me, s.things.license)),
        "reserve": Line(_reserve),
        "release": Line(lambda s: s.store.release(s.me, LIMIT, "job")),
    },
    also={MemoryLicenseStore: {"reserved": Line(lambda s: s.store.reserved(s.me, LIMIT, utc_now()))}},
)


def _call(scene: Scene) -> Call:
    return Call(scene.me or scene.owner, "charge", "key", "r-1", "pay", 1, "0" * 64)


def _seed_attempts(scene: Scene) -> None:
    begun = scene.store.begin(_call(scene), utc_now())
    done = ActionResult("charge", ActionStatus.COMPLETED, response_data={"said": scene.canary})
    scene.store.finish(_call(scene), begun.attempt, done, utc_now())


ATTEMPTS = Group(
    stores={
        PostgresAttemptStore: lambda s: PostgresAttemptStore(s.db),
        MemoryAttemptStore: lambda s: MemoryAttemptStore(),
    },
    seed=_seed_attempts,
    look=lambda s: s.store.records(s.owner, "r-1"),
    lines={
        "begin": Line(lambda s: s.store.begin(_call(s), utc_now())),
        "finish": Line(lambda s: s.store.finish(_call(s), 1, ActionResult("charge", ActionStatus.FAILED), utc_now())),
        "records": Line(lambda s: s.store.records(s.me, "r-1")),
    },
)
