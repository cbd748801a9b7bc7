"""Licences of tenants as programs use them: set, looked at through a short cache, held against what is there."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmteam.crypto import VerifyKey
from llmteam.errors import InfrastructureError
from llmteam.ids import Clock, as_utc, check_identifier, utc_now
from llmteam.licensing import keys
from llmteam.licensing.exceptions import LicenseLimitExceededError
from llmteam.licensing.limits import LICENSE_LIMITS, LicenseTier, limit_name
from llmteam.licensing.models import SEEN_EVERY, License, LicenseRecord, Standing, State, is_set_back, standing
from llmteam.licensing.stores import LicenseStore
from llmteam.tenancy.admission import LicensedStarts, effective
from llmteam.tenancy.context import TenantContext, get_current_tenant
from llmteam.tenancy.exceptions import TenantContextError, TenantFeatureDisabledError
from llmteam.tenancy.limits import EVERY_FEATURE, UNCOUNTED
from llmteam.tenancy.limits import LIMITS as TENANT_LIMITS
from llmteam.tenancy.manager import ChangeLog
from llmteam.tenancy.stores import TenantStore

logger = logging.getLogger(__name__)

#: Seconds for which a licence is taken from the cache: what another process changes holds here after this time.
CACHE_SECONDS = 5.0
#: Seconds for which the last known licence holds while the store cannot be asked.
STALE_SECONDS = 3600.0
#: Licences in the cache.
CACHED = 10_000

_LOWEST = LICENSE_LIMITS[LicenseTier.COMMUNITY]
_UNKNOWN = Standing(State.UNKNOWN, LicenseTier.COMMUNITY, _LOWEST)


@dataclass(frozen=True, slots=True)
class _Cached:
    """A tenant's licence and when it was read (monotonic, in seconds)."""

    read_at: float
    record: LicenseRecord | None


class TenantLicenses:
    """Licences of the tenants of one store.

    Args:
        store: where they are kept.
        tenants: records of tenants, whose tiers count too; without it only licences do.
        log: where changes are written down, each in the trail of its tenant.
        actor_id: who makes them.
        public_key: what checks keys; a function, asked when there is a key to check.
        revoked: ids that are worth nothing besides those that the store has.
        fallback: what holds for a tenant without a licence.
    """

    def __init__(
        self,
        store: LicenseStore,
        *,
        tenants: TenantStore | None = None,
        log: ChangeLog | None = None,
        actor_id: str = "",
        public_key: Callable[[], VerifyKey | None] = lambda: None,
        unsigned: Callable[[], bool] = lambda: False,
        revoked: Callable[[], frozenset[str]] = frozenset,
        fallback: Callable[[str], Standing] = lambda tenant_id: standing(None, utc_now()),
        cache_seconds: float = CACHE_SECONDS,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._tenants = tenants
        self._log = log
        self._actor_id = actor_id
        self._public_key = public_key
        self._unsigned = unsigned
        self._revoked = revoked
        self._fallback = fallback
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._cache: OrderedDict[str, _Cached] = OrderedDict()

    # -- changes

    async def set_license(
        self,
        tenant_id: str,
        tier: LicenseTier | str,
        *,
        expires_at: datetime | None = None,
        version: int | None = None,
        by: str | None = None,
    ) -> License:
        """Give a tenant a licence without a key, in the place of the one that it has; open runs go on.

        ``version`` is that of the licence to be replaced, 0 for none. Raises :class:`LicenseConflictError`, and
        ``ValueError`` for a tier that there is not.
        """
        end = None if expires_at is None else as_utc(expires_at)
        given = License.of_operator(LicenseTier(tier), self._clock(), end)
        return (await self._put(tenant_id, given, "set", version, by)).license

    async def install(
        self, tenant_id: str, key: str, *, version: int | None = None, by: str | None = None
    ) -> LicenseRecord:
        """Give a tenant the licence of a signed key.

        Raises :class:`LicenseValidationError`, :class:`LicenseExpiredError`, :class:`LicenseConflictError`.
        """
        given = await self.check_key(tenant_id, key)
        return await self._put(tenant_id, given, "install", version, by)

    async def check_key(self, tenant_id: str, key: str) -> License:
        """The licence of a key that :meth:`install` takes. Raises what it raises."""
        check_identifier("tenant_id", tenant_id)
        given = keys.read(key, self._public_key(), unsigned=self._unsigned())
        held = await self.store.call(self.store.current, tenant_id)
        now = self._clock()
        keys.check(given, now if held is None else max(now, held.seen_at), tenant_id=tenant_id)
        known = given.license_id in self._revoked()
        keys.refuse_revoked(given, known or await self.store.call(self.store.is_revoked, tenant_id, given.license_id))
        return given

    async def remove(self, tenant_id: str, *, version: int | None = None, by: str | None = None) -> None:
        """End the licence of a tenant, so that its tier alone decides. Raises :class:`LicenseConflictError`."""
        await self._change(tenant_id, None, "remove", version, by)

    async def revoke(self, tenant_id: str, license_id: str, *, by: str | None = None) -> bool:
        """Let a licence be worth the lowest tier, for good, whether the tenant has it yet or not; False if it was."""
        check_identifier("license_id", license_id)
        self._refuse_others(tenant_id)
        done = await self.store.call(self.store.revoke, tenant_id, license_id, self._by(by), self._clock())
        self.forget(tenant_id)
        if done:
            await self._note(tenant_id, "revoke", None, {"license_id": license_id}, by)
        return done

    async def _put(
        self, tenant_id: str, given: License, action: str, version: int | None, by: str | None
    ) -> LicenseRecord:
        record = await self._change(tenant_id, given, action, version, by)
        if record is None:  # somebody ended it right after
            now = self._clock()
            return LicenseRecord(tenant_id, 0, given, now, self._by(by), now, now)
        return record

    async def _change(
        self, tenant_id: str, given: License | None, action: str, version: int | None, by: str | None
    ) -> LicenseRecord | None:
        check_identifier("tenant_id", tenant_id)
        self._refuse_others(tenant_id)
        before = await self.store.call(self.store.current, tenant_id)
        record = await self.store.call(self.store.put, tenant_id, given, self._by(by), self._clock(), version)
        self.forget(tenant_id)
        was = None if before is None else before.license.document()
        await self._note(tenant_id, action, was, None if given is None else given.document(), by)
        return record

    def _by(self, by: str | None) -> str:
        return self._actor_id if by is None else by

    def _refuse_others(self, tenant_id: str) -> None:
        current = get_current_tenant()
        if current and current != tenant_id:
            raise TenantContextError(
                f"The licence of tenant '{tenant_id}' cannot be changed while '{current}' is current: leave its context"
            )

    async def _note(
        self, tenant_id: str, action: str, before: dict[str, Any] | None, after: dict[str, Any] | None, by: str | None
    ) -> None:
        if self._log is None:
            return
        actor = self._by(by)
        with TenantContext(tenant_id):
            await self._log.log(
                "config.policy_changed",
                actor_type="user" if actor else "system",
                actor_id=actor,
                action=f"license.{action}",
                resource_type="license",
                resource_id=tenant_id,
                old_value=before,
                new_value=after,
            )

    # -- what holds

    async def record(self, tenant_id: str) -> LicenseRecord | None:
        """The licence that the tenant has now, as it is stored."""
        return await self.store.call(self.store.current, tenant_id)

    async def standing(self, tenant_id: str) -> Standing:
        """What holds of the tenant's own licence. Never raises for a store that cannot be asked."""
        cached = self._fresh(tenant_id)
        if cached is None:
            cached = await self.store.call(self._read, tenant_id)
        return self._stands(cached)

    def standing_now(self, tenant_id: str) -> Standing:
        """:meth:`standing` for code without an event loop; blocks when the cache has no answer."""
        return self._stands(self._fresh(tenant_id) or self._read(tenant_id))

    async def standing_for(self, tenant_id: str) -> Standing:
        """What features a tenant has: by its own licence, else by one of this process that is for it."""
        return self._or_fallback(tenant_id, await self.standing(tenant_id))

    def standing_for_now(self, tenant_id: str) -> Standing:
        """:meth:`standing_for` for code without an event loop."""
        return self._or_fallback(tenant_id, self.standing_now(tenant_id))

    def _or_fallback(self, tenant_id: str, own: Standing) -> Standing:
        return self._fallback(tenant_id) if own.state is State.NONE else own

    async def starts(self, tenant_id: str) -> LicensedStarts | None:
        """What of the tenant's licence counts when a run starts; None when it has none."""
        return (await self.standing(tenant_id)).starts

    def forget(self, tenant_id: str | None = None) -> None:
        """Take one tenant, or all, out of the cache."""
        if tenant_id is None:
            self._cache.clear()
        else:
            self._cache.pop(tenant_id, None)

    def _fresh(self, tenant_id: str) -> _Cached | None:
        cached = self._cache.get(tenant_id)
        return cached if cached is not None and self._age(cached) < self._cache_seconds else None

    def _age(self, cached: _Cached) -> float:
        return self._monotonic() - cached.read_at

    def _stands(self, cached: _Cached | None) -> Standing:
        if cached is None:
            return _UNKNOWN
        if cached.record is None:
            return standing(None, self._clock())
        return cached.record.standing(self._clock(), self._revoked())

    def _read(self, tenant_id: str) -> _Cached | None:
        """What the store says, else what was known not too long ago, else None."""
        read_at = self._monotonic()
        try:
            record = self.store.current(tenant_id)
            if record is not None:
                self._look(record)
        except InfrastructureError as exc:
            old = self._cache.get(tenant_id)
            kept = old if old is not None and self._age(old) < STALE_SECONDS else None
            known = "what was known of it goes on to hold" if kept else "the lowest tier holds"
            logger.warning("the licence of tenant %s cannot be read, so %s: %s", tenant_id, known, exc)
            return kept
        fresh = self._cache[tenant_id] = _Cached(read_at, record)
        self._cache.move_to_end(tenant_id)
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return fresh

    def _look(self, record: LicenseRecord) -> None:
        """Note what a look at a licence tells: the time, a clock that was set back, an id that is revoked here."""
        now, tenant_id, license_id = self._clock(), record.tenant_id, record.license.license_id
        if is_set_back(now, record.seen_at):
            logger.warning(
                "the clock is behind %s, at which the licence of tenant %s was looked at: that time counts on",
                record.seen_at.isoformat(timespec="seconds"),
                tenant_id,
            )
        elif now - record.seen_at > SEEN_EVERY:
            self.store.see(tenant_id, now)
        if license_id in self._revoked() and not record.revoked:
            self.store.revoke(tenant_id, license_id, "LLMTEAM_LICENSE_REVOKED", now)

    async def has_feature(self, tenant_id: str, feature: str) -> bool:
        """Whether the tenant has a feature: by its tier, or by its licence; what was disabled for it, it has not.

        Of a tenant with neither a record nor a licence no feature is looked at.
        """
        stands = await self.standing_for(tenant_id)
        config = None if self._tenants is None else await self._tenants.get(tenant_id)
        if config is None:
            return stands.state is State.NONE or stands.limits.has_feature(feature)
        limits = config.get_effective_limits()
        if {feature, EVERY_FEATURE} & limits.features_disabled:
            return False
        return limits.has_feature(feature) or (stands.state is not State.NONE and stands.limits.has_feature(feature))

    async def require_feature(self, tenant_id: str, feature: str) -> None:
        """Raise :class:`TenantFeatureDisabledError` unless the tenant has the feature; as :meth:`has_feature`."""
        if not await self.has_feature(tenant_id, feature):
            raise TenantFeatureDisabledError(tenant_id, feature)

    # -- limits

    async def maximum(self, tenant_id: str, limit: str) -> int | None:
        """How much the tenant may have, by its tier and its licence together; None when nothing is counted.

        Raises :class:`UnknownLicenseLimitError` (also a ``ValueError``).
        """
        return await self._maximum(tenant_id, limit_name(limit), await self.standing(tenant_id))

    def licensed(self, limit: str) -> Callable[[str], int | None]:
        """A function from a tenant to how much its licence allows, or one of this process that is for it.

        None without a licence, or where nothing is counted. It blocks when the cache has no answer. For ``limit_of`` of
        what counts for itself. Raises as :meth:`maximum`.
        """
        name = limit_name(limit)

        def of(tenant_id: str) -> int | None:
            stands = self.standing_for_now(tenant_id) if tenant_id else self._fallback(tenant_id)
            return None if stands.state is State.NONE else stands.limits.maximum(name)

        return of

    async def _maximum(self, tenant_id: str, name: str, stands: Standing) -> int | None:
        has_record, own = await self._own(tenant_id, name)
        if stands.state is State.NONE:
            return own if has_record else self._fallback(tenant_id).limits.maximum(name)
        return effective(own, stands.limits.maximum(name))

    async def _own(self, tenant_id: str, name: str) -> tuple[bool, int | None]:
        """Whether the tenant has a record, and what its tier says."""
        config = None if self._tenants is None else await self._tenants.get(tenant_id)
        if config is None:
            return False, None
        field = TENANT_LIMITS.get(name)
        value = UNCOUNTED if field is None else int(getattr(config.get_effective_limits(), field))
        return True, None if value >= UNCOUNTED else value

    async def check_limit(self, tenant_id: str, limit: str, current: int) -> bool:
        """Whether one more is allowed where there are ``current`` already; advice, as others may be faster.

        Raises as :meth:`maximum`.
        """
        most = await self.maximum(tenant_id, limit)
        return most is None or current < most

    async def require_limit(self, tenant_id: str, limit: str, current: int) -> None:
        """Raise :class:`LicenseLimitExceededError` unless one more is allowed; else as :meth:`check_limit`."""
        most = await self.maximum(tenant_id, limit)
        if most is not None and current >= most:
            raise LicenseLimitExceededError(tenant_id, limit_name(limit), current, most)

    async def reserve(self, tenant_id: str, limit: str, owner: str, ttl: timedelta | float) -> None:
        """Take a place under a limit for ``ttl`` (seconds), so that no two take the last one; again prolongs it.

        Places under ``concurrent_pipelines`` are those that starts of runs take: give one back when its run has
        started. Raises :class:`LicenseLimitExceededError`, and as :meth:`maximum`.
        """
        name, now = limit_name(limit), self._clock()
        check_identifier("owner", owner)
        until = now + (ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl))
        # As it is now, not as it was a moment ago.
        most = await self._maximum(tenant_id, name, self._stands(await self.store.call(self._read, tenant_id)))
        taken = await self.store.call(self.store.reserve, tenant_id, name, owner, until, most, now)
        if taken is not None:
            raise LicenseLimitExceededError(tenant_id, name, taken, most or 0)

    async def release(self, tenant_id: str, limit: str, owner: str) -> bool:
        """Give a place back; False when there is none, as after its time."""
        return await self.store.call(self.store.release, tenant_id, limit_name(limit), owner)
