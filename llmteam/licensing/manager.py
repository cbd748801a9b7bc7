"""The licence of a process and those of its tenants, behind one face."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Protocol, TypeVar, overload

from llmteam.crypto import VerifyKey
from llmteam.errors import LLMTeamError
from llmteam.ids import Clock, utc_now
from llmteam.licensing import keys, sources
from llmteam.licensing.limits import FLAGS, LicenseLimits, LicenseTier
from llmteam.licensing.models import License, LicenseRecord, Standing, is_set_back, of_tier, standing
from llmteam.licensing.stores import LicenseStore, MemoryLicenseStore
from llmteam.licensing.tenants import CACHE_SECONDS, TenantLicenses
from llmteam.settings import Settings
from llmteam.tenancy.admission import LicensedStarts
from llmteam.tenancy.manager import ChangeLog
from llmteam.tenancy.stores import TenantStore

logger = logging.getLogger(__name__)

_SHOWN = ("max_concurrent_pipelines", "max_agents_per_pipeline", "max_parallel_agents")


class Executes(Protocol):
    """The settings of an executor: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def max_concurrent(self) -> int: ...


_Config = TypeVar("_Config", bound=Executes)


class LicenseManager:
    """The licence of this process, and those of tenants.

    What is about the process answers at once; what is about a tenant is ``async`` and asks ``store``. Without ``tier``
    the process's licence is looked for in its settings; a key there that is not taken is logged, and :meth:`get_info`
    tells. ``tier`` holds for the process without any licence, for tests; no decision about a tenant reads it.

    Args:
        tier: what holds for the process.
        store: where licences of tenants are kept; by default in memory.
        tenants: records of tenants, whose tiers count too.
        log: where changes of tenants' licences are written down, each in the trail of its tenant.
        actor_id: who makes them.
        settings: those of the environment by default.
    """

    _instance: ClassVar[LicenseManager | None] = None
    _one_at_a_time: ClassVar[threading.RLock] = threading.RLock()

    def __init__(
        self,
        tier: LicenseTier | None = None,
        *,
        store: LicenseStore | None = None,
        tenants: TenantStore | None = None,
        log: ChangeLog | None = None,
        actor_id: str = "",
        settings: Settings | None = None,
        cache_seconds: float = CACHE_SECONDS,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tier = None if tier is None else LicenseTier(tier)
        self._settings = settings
        self._clock = clock
        self._seen: datetime | None = None
        self._source = "" if tier is None else "given to the constructor"
        self._last_error = ""
        self.license: License | None = None
        self.tenants = TenantLicenses(
            store or MemoryLicenseStore(),
            tenants=tenants,
            log=log,
            actor_id=actor_id,
            public_key=self._public_key,
            unsigned=lambda: self._known_settings().takes_unsigned_licenses,
            revoked=self._revoked,
            fallback=self._for_tenant,
            cache_seconds=cache_seconds,
            clock=clock,
            monotonic=monotonic,
        )
        if tier is None:
            self._activate_own()

    @classmethod
    def instance(cls) -> LicenseManager:
        """The one of this process."""
        with cls._one_at_a_time:
            if LicenseManager._instance is None:
                LicenseManager._instance = cls()
            return LicenseManager._instance

    @classmethod
    def reset(cls) -> None:
        """Let go of the one of this process; the next :meth:`instance` is another."""
        with cls._one_at_a_time:
            LicenseManager._instance = None

    # -- this process's licence

    def activate(self, key: str) -> License:
        """Take a licence key for this process, in the place of what held.

        Raises :class:`LicenseValidationError`, :class:`LicenseExpiredError`; what held then goes on to hold.
        """
        try:
            return self._take(key, "activated", in_grace=False)
        except LLMTeamError as exc:
            self._last_error = str(exc)
            raise

    def deactivate(self) -> None:
        """Hold no licence any more."""
        self.license, self._tier, self._source = None, None, ""

    def _activate_own(self) -> None:
        try:
            found = sources.find_key(self._known_settings())
            if found is not None:
                self._source = found.source
                # A process that is started again during the days of grace has what it had before.
                self._take(found.text, found.source, in_grace=True)
        except LLMTeamError as exc:
            self._last_error = str(exc)
            logger.warning("no licence holds for this process: %s", exc)

    def _take(self, key: str, source: str, *, in_grace: bool) -> License:
        unsigned = self._known_settings().takes_unsigned_licenses
        found = keys.read(key, self._public_key(), unsigned=unsigned)
        keys.check(found, self._now(), in_grace=in_grace)
        keys.refuse_revoked(found, found.license_id in self._revoked())
        if not found.signer:
            logger.warning("a licence key without a signature was taken, as LLMTEAM_LICENSE_UNSIGNED says: not for use")
        self.license, self._tier, self._source, self._last_error = found, None, source, ""
        return found

    def _known_settings(self) -> Settings:
        if self._settings is None:
            self._settings = Settings.load()
        return self._settings

    def _public_key(self) -> VerifyKey | None:
        return sources.public_key(self._known_settings())

    def _revoked(self) -> frozenset[str]:
        return frozenset(self._known_settings().license_revoked)

    def _now(self) -> datetime:
        """The time that counts: a clock that was set back gives none back."""
        now = self._clock()
        if self._seen is not None and is_set_back(now, self._seen):
            self._last_error = f"the clock is behind {self._seen:%Y-%m-%d %H:%M} UTC, at which it was looked at"
        self._seen = now if self._seen is None else max(now, self._seen)
        return self._seen

    def standing(self) -> Standing:
        """What holds for this process: the one answer that all others are made of."""
        if self._tier is not None:
            return of_tier(self._tier)
        found = self.license
        return standing(found, self._now(), revoked=found is not None and found.license_id in self._revoked())

    def _for_tenant(self, tenant_id: str) -> Standing:
        """What this process's licence is worth for a tenant without one; a tier that was merely given is not."""
        found = self.license
        if self._tier is not None or found is None or found.tenant_id not in {None, tenant_id}:
            return standing(None, self._now())
        return self.standing()

    # -- what it allows

    @property
    def current_tier(self) -> LicenseTier:
        """The tier that holds."""
        return self.standing().tier

    @property
    def tier(self) -> LicenseTier:
        """The tier that holds."""
        return self.current_tier

    def get_tier(self) -> LicenseTier:
        """The tier that holds."""
        return self.current_tier

    @property
    def limits(self) -> LicenseLimits:
        """What is allowed."""
        return self.standing().limits

    def has_tier(self, required: LicenseTier) -> bool:
        """Whether that tier, or a higher one, holds."""
        return self.current_tier >= LicenseTier(required)

    def has_feature(self, feature: str) -> bool:
        """Whether a feature is there."""
        return self.limits.has_feature(feature)

    def check_feature(self, feature: str) -> bool:
        """As :meth:`has_feature`."""
        return self.has_feature(feature)

    def check_concurrent_limit(self, current: int) -> bool:
        """Whether one more pipeline may run where ``current`` run already."""
        return self._is_below("concurrent_pipelines", current)

    def check_agents_limit(self, count: int) -> bool:
        """Whether a pipeline may have so many agents."""
        return self._is_below("agents_per_pipeline", count - 1)

    def check_parallel_limit(self, count: int) -> bool:
        """Whether so many agents may work at once."""
        return self._is_below("parallel_agents", count - 1)

    def _is_below(self, limit: str, current: int) -> bool:
        most = self.limits.maximum(limit)
        return most is None or current < most

    def enforce(self, executor_config: _Config) -> _Config:
        """A copy of an executor's settings with no more at once than is allowed; the rest is as it was."""
        wanted, most = executor_config.max_concurrent, self.limits.maximum("parallel_agents")
        granted = wanted if most is None else min(wanted, most)
        if granted < wanted:
            logger.warning("an executor asked for %d at once and gets %d, as its licence says", wanted, granted)
        return replace(executor_config, max_concurrent=granted)

    @overload
    def check_limit(self, limit_name: str, current_value: int, /) -> bool: ...
    @overload
    def check_limit(self, limit_name: str, /, *, current: int) -> bool: ...
    @overload
    def check_limit(self, limit_name: str, /, *, current_value: int) -> bool: ...
    @overload
    def check_limit(self, tenant_id: str, limit_name: str, current: int, /) -> Awaitable[bool]: ...
    @overload
    def check_limit(self, tenant_id: str, limit_name: str, /, *, current: int) -> Awaitable[bool]: ...
    @overload
    def check_limit(self, tenant_id: str, limit_name: str, /, *, current_value: int) -> Awaitable[bool]: ...

    def check_limit(
        self, first: str, *rest: str | int, current: int | None = None, current_value: int | None = None
    ) -> bool | Awaitable[bool]:
        """Whether one more is allowed where there are so many already; advice, see :meth:`reserve`.

        ``check_limit("pipelines", 3)`` answers for this process at once;
        ``await check_limit("acme", "pipelines", current=3)`` for a tenant. Raises ``ValueError`` for a limit that there
        is not, ``TypeError`` for other arguments.
        """
        given = [*rest, *(value for value in (current, current_value) if value is not None)]
        if len(given) == 1 and type(given[0]) is int:
            return self._is_below(first, given[0])
        if len(given) == 2 and isinstance(given[0], str) and type(given[1]) is int:
            return self.tenants.check_limit(first, given[0], given[1])
        raise TypeError("check_limit takes (limit, number), or (tenant, limit, current=number)")

    # -- licences of tenants

    async def set_license(
        self,
        tenant_id: str,
        tier: LicenseTier | str,
        *,
        expires_at: datetime | None = None,
        version: int | None = None,
        by: str | None = None,
    ) -> License:
        """As :meth:`TenantLicenses.set_license`."""
        return await self.tenants.set_license(tenant_id, tier, expires_at=expires_at, version=version, by=by)

    async def install(
        self, tenant_id: str, key: str, *, version: int | None = None, by: str | None = None
    ) -> LicenseRecord:
        """As :meth:`TenantLicenses.install`."""
        return await self.tenants.install(tenant_id, key, version=version, by=by)

    async def require_limit(self, tenant_id: str, limit: str, current: int) -> None:
        """As :meth:`TenantLicenses.require_limit`."""
        await self.tenants.require_limit(tenant_id, limit, current)

    async def reserve(self, tenant_id: str, limit: str, owner: str, ttl: timedelta | float) -> None:
        """As :meth:`TenantLicenses.reserve`."""
        await self.tenants.reserve(tenant_id, limit, owner, ttl)

    async def release(self, tenant_id: str, limit: str, owner: str) -> bool:
        """As :meth:`TenantLicenses.release`."""
        return await self.tenants.release(tenant_id, limit, owner)

    async def starts(self, tenant_id: str) -> LicensedStarts | None:
        """As :meth:`TenantLicenses.starts`."""
        return await self.tenants.starts(tenant_id)

    # -- telling

    def get_limits(self) -> dict[str, Any]:
        """Tier, numbers and features that hold."""
        found = self.standing()
        numbers = {name: getattr(found.limits, name) for name in _SHOWN}
        return {"tier": found.tier.value, **numbers, "features": sorted(found.limits.features)}

    def get_info(self) -> dict[str, Any]:
        """What holds for this process, where it comes from, and what went wrong last."""
        found = self.standing()
        numbers = found.limits.numbers()
        return {
            "tier": found.tier.value,
            "license": None if found.license is None else found.license.to_dict(),
            "limits": {name: numbers[name] for name in (*_SHOWN, "max_teams")},
            "features": {name: getattr(found.limits, name) for name in FLAGS if not name.endswith("_store")},
            "state": found.state.value,
            "source": self._source,
            "last_error": self._last_error,
        }

    def print_status(self) -> None:
        """Write :meth:`get_info` to standard output, a line for each thing."""
        found = self.standing()
        lines = [f"licence tier: {found.tier.display_name}"]
        if found.license is not None:
            last = f"{found.license.expires_at:%Y-%m-%d}"
            lines.append(f"owner: {found.license.owner}; last day: {last}; state: {found.state.value}")
        lines += [f"{name.replace('_', ' ')}: {value:,}" for name, value in found.limits.numbers().items()]
        lines.append("features: " + ", ".join(sorted(found.limits.features)))
        if self._source:
            lines.append(f"source: {self._source}")
        if self._last_error:
            lines.append(f"last error: {self._last_error}")
        sys.stdout.write("\n".join(lines) + "\n")


def get_license_manager() -> LicenseManager:
    """The one of this process."""
    return LicenseManager.instance()


def activate(key: str) -> License:
    """As :meth:`LicenseManager.activate` of the one of this process."""
    return get_license_manager().activate(key)


def get_tier() -> LicenseTier:
    """The tier that holds for this process."""
    return get_license_manager().get_tier()


def has_feature(feature: str) -> bool:
    """Whether this process has a feature."""
    return get_license_manager().has_feature(feature)


def print_license_status() -> None:
    """Write what holds for this process to standard output."""
    get_license_manager().print_status()
