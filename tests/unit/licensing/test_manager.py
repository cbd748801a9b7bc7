"""The licence of a process: what holds, where it is looked for, and what goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import llmteam
from llmteam.licensing import (
    LicenseExpiredError,
    LicenseManager,
    LicenseTier,
    LicenseValidationError,
    activate,
    get_license_manager,
    get_tier,
    has_feature,
    print_license_status,
)
from llmteam.settings import Settings
from tests.unit.licensing.issuing import NOW, VENDOR, key, settings

C, P, E = LicenseTier
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def nobodys_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process and a home without any licence, before and after each test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    LicenseManager.reset()
    yield
    LicenseManager.reset()


class Time:
    """A clock that is set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def manager(clock: Time | None = None, **given: Any) -> LicenseManager:
    return LicenseManager(settings=settings(**given), clock=clock or Time())


def test_without_a_key_the_lowest_tier_holds() -> None:
    found = LicenseManager()

    assert (found.tier, found.current_tier, found.get_tier(), found.license) == (C, C, C, None)
    assert found.get_limits() == {
        "tier": "community",
        "max_concurrent_pipelines": 1,
        "max_agents_per_pipeline": 5,
        "max_parallel_agents": 2,
        "features": ["basic", "basic_agents", "memory_store", "sequential_execution"],
    }


def test_a_tier_that_is_given_holds_without_a_key() -> None:
    assert [LicenseManager(tier).tier for tier in LicenseTier] == [C, P, E]


def test_how_many_there_are_and_how_many_there_will_be_are_different_questions() -> None:
    community, professional, enterprise = (LicenseManager(tier) for tier in LicenseTier)

    assert [community.check_concurrent_limit(number) for number in (0, 1, 2)] == [True, False, False]
    assert [community.check_agents_limit(number) for number in (3, 5, 6)] == [True, True, False]
    assert [professional.check_parallel_limit(number) for number in (5, 10, 11)] == [True, True, False]
    assert [community.check_limit("teams", number) for number in (1, 2)] == [True, False]
    assert all(enterprise.check_limit(name, 10**9) for name in ("pipelines", "agents", "snapshots"))
    assert enterprise.check_parallel_limit(10**9)


def test_a_limit_that_there_is_not_and_arguments_that_are_none_are_refused() -> None:
    found = LicenseManager(P)

    assert found.check_limit("pipelines", current=4) is True
    assert found.check_limit("pipelines", current_value=5) is False
    with pytest.raises(ValueError, match="no limit 'features'"):
        found.check_limit("features", 1)
    with pytest.raises(TypeError, match=r"\(tenant, limit, current=number\)"):
        found.check_limit("pipelines", "5")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        found.check_limit("pipelines", True)
    with pytest.raises(TypeError):
        found.check_limit("acme", "pipelines", 1, current=1)  # type: ignore[call-overload]


def test_features_follow_the_tier() -> None:
    community, professional, enterprise = (LicenseManager(tier) for tier in LicenseTier)

    paid = ("parallel_execution", "process_mining")
    assert [professional.check_feature(name) for name in (*paid, "basic_agents", "sso")] == [True, True, True, False]
    assert not any(community.has_feature(name) for name in paid)
    assert enterprise.has_feature("sso")
    assert [community.has_tier(tier) for tier in LicenseTier] == [True, False, False]
    assert [professional.has_tier(tier) for tier in LicenseTier] == [True, True, False]


@dataclass(frozen=True)
class ExecutorSettings:
    max_concurrent: int = 20
    mode: str = "parallel"
    queue_size: int = 7
    task_timeout: float = 3.5


def test_an_executor_gets_no_more_than_is_allowed_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    asked = ExecutorSettings()

    granted = [LicenseManager(tier).enforce(asked) for tier in LicenseTier]

    assert granted == [ExecutorSettings(2), ExecutorSettings(10), ExecutorSettings(20)]
    assert [record.args for record in caplog.records] == [(20, 2), (20, 10)]


def test_a_key_gives_what_it_says_until_its_days_of_grace_are_over() -> None:
    clock = Time()
    found = manager(clock)

    given = found.activate(key(limits={"teams": 3}, grace_days=10))

    assert found.license is given
    assert (found.tier, found.limits.max_teams, found.limits.max_snapshots) == (P, 3, 100)
    for moment, tier, state in (
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), P, "valid"),
        (datetime(2027, 1, 10, 23, 59, tzinfo=UTC), P, "grace"),
        (datetime(2027, 1, 11, tzinfo=UTC), C, "expired"),
    ):
        clock.now = moment
        answers = (found.tier, found.has_tier(P), found.has_feature("process_mining"), found.check_parallel_limit(10))
        assert answers == (tier, tier is P, tier is P, tier is P)
        assert found.get_info()["state"] == state
    assert (given.is_expired, given.days_left(NOW), given.days_left(clock.now)) == (
        given.expires_at < datetime.now(UTC),
        199,
        0,
    )


def test_a_key_that_is_refused_changes_nothing() -> None:
    found = manager()
    found.activate(key())

    with pytest.raises(LicenseExpiredError):
        found.activate(key(expires=NOW.date() - DAY))
    with pytest.raises(LicenseValidationError):
        found.activate("LLMT-ENT-anything-20301231")

    assert found.tier is P
    assert "without a signature" in found.get_info()["last_error"]
    found.deactivate()
    assert (found.tier, found.license) == (C, None)


def test_a_clock_that_is_set_back_gives_no_time_back() -> None:
    clock = Time()
    found = manager(clock)
    found.activate(key(grace_days=0))
    clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    assert found.tier is C

    clock.now = NOW

    assert found.tier is C
    assert "the clock is behind 2027-01-01 00:00 UTC" in found.get_info()["last_error"]


def test_a_licence_is_looked_for_in_settings_files_and_the_home(tmp_path: Path) -> None:
    file, home = tmp_path / "file.key", tmp_path / ".llmteam" / "license.key"
    home.parent.mkdir()
    for path, owner in ((file, "File"), (home, "Home")):
        path.write_text(key(owner=owner) + "\n", encoding="utf-8")
        path.chmod(0o600)

    everywhere = manager(license_key=key(owner="Variable"), license_file=file)

    assert everywhere.license is not None
    assert (everywhere.license.owner, everywhere.get_info()["source"]) == ("Variable", "LLMTEAM_LICENSE_KEY")
    assert owner_of(manager(license_file=file)) == "File"
    assert owner_of(manager()) == "Home"


def owner_of(found: LicenseManager) -> str:
    assert found.license is not None
    return found.license.owner


def test_files_of_the_working_directory_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "work" / ".llmteam"
    place.mkdir(parents=True)
    for path in (place / "license.key", place.parent / "license.key"):
        path.write_text(key(), encoding="utf-8")

    monkeypatch.chdir(place.parent)

    assert manager().license is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "license.key"
    file.write_text(key(), encoding="utf-8")
    file.chmod(mode)

    found = manager(license_file=file)

    assert found.license is None
    assert "chmod go-w" in found.get_info()["last_error"]
    assert found.get_info()["last_error"] in caplog.text


def test_a_file_that_is_missing_or_no_key_is_told(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.write_text("x" * 10_000, encoding="utf-8")
    huge.chmod(0o600)

    assert "No such file" in manager(license_file=tmp_path / "none").get_info()["last_error"]
    assert "it is no file" in manager(license_file=Path("/dev/null")).get_info()["last_error"]
    assert "8,192 bytes" in manager(license_file=huge).get_info()["last_error"]
    assert "cannot be read" in manager(license_file=tmp_path).get_info()["last_error"]


def test_a_public_key_may_stand_in_a_file_or_be_wrong(tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(VENDOR.verify_key.to_pem())
    file.chmod(0o644)

    assert manager(license_public_key=str(file), license_key=key()).tier is P
    file.write_text("-----BEGIN nothing", encoding="utf-8")
    assert "no Ed25519 public key" in manager(license_public_key=str(file), license_key=key()).get_info()["last_error"]


def test_a_key_in_the_settings_that_is_refused_is_told_and_grants_nothing(caplog: pytest.LogCaptureFixture) -> None:
    text = key(license_id="lic-9")
    found = manager(license_key=text, license_revoked=("lic-9",))

    assert (found.tier, found.license) == (C, None)
    info = found.get_info()
    assert (info["source"], info["license"]) == ("LLMTEAM_LICENSE_KEY", None)
    assert "'lic-9' was revoked" in info["last_error"]
    assert "'lic-9' was revoked" in caplog.text
    assert text[10:] not in caplog.text + json.dumps(info)


def test_a_process_that_is_started_during_the_days_of_grace_has_its_licence() -> None:
    later = Time(datetime(2027, 1, 5, tzinfo=UTC))

    assert manager(later, license_key=key()).tier is P
    with pytest.raises(LicenseExpiredError):
        manager(later).activate(key())


def test_no_text_of_a_licence_shows_its_key() -> None:
    text = key()
    found = manager(license_key=text)
    assert found.license is not None

    shown = [repr(found.license), json.dumps(found.get_info()), json.dumps(found.license.document()), repr(settings())]

    assert not any(text[10:40] in one for one in shown)
    assert found.license.to_dict()["key"] == text[:10] + "..."
    assert repr(Settings(license_key=text)) == "Settings(LLMTEAM_LICENSE_KEY=***)".replace(
        "LLMTEAM_LICENSE_KEY", "license_key"
    )


@pytest.mark.parametrize(
    ("environment", "taken"),
    [
        ({"LLMTEAM_LICENSE_UNSIGNED": "1"}, True),
        ({"LLMTEAM_LICENSE_UNSIGNED": "0"}, False),
        ({}, False),
        ({"LLMTEAM_LICENSE_UNSIGNED": "1", "LLMTEAM_DATABASE_URL": "postgresql://db/prod"}, False),
    ],
)
def test_keys_without_a_signature_are_for_development(
    environment: dict[str, str], taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found = LicenseManager(settings=Settings.load({**environment, "LLMTEAM_LICENSE_KEY": "LLMT-PRO-Acme-20301231"}))

    assert found.tier is (P if taken else C)
    assert ("not for use" in caplog.text) is taken


def test_there_is_one_manager_for_a_process_and_it_can_be_dropped() -> None:
    first = LicenseManager.instance()
    first._tier = E
    assert get_license_manager() is first is LicenseManager.instance()
    assert (get_tier(), has_feature("sso")) == (E, True)

    LicenseManager.reset()

    assert get_license_manager() is not first
    assert get_license_manager() is LicenseManager.instance()
    assert (get_tier(), has_feature("sso")) == (C, False)


def test_the_functions_of_the_module_are_about_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMTEAM_LICENSE_PUBLIC_KEY", VENDOR.verify_key.to_pem().decode())

    given = activate(key(starts=datetime.now(UTC).date(), expires=datetime.now(UTC).date() + 30 * DAY))
    print_license_status()

    assert given.days_remaining == 30
    assert not given.is_expired
    assert llmteam.get_tier() is P
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "licence tier: Professional"
    assert "max concurrent pipelines: 5" in lines
    assert all(line.isascii() or "Ächme" in line for line in lines)


def test_what_holds_is_a_document() -> None:
    info = manager(license_key=key()).get_info()

    assert json.loads(json.dumps(info)) == info
    assert info["limits"] == {
        "max_concurrent_pipelines": 5,
        "max_agents_per_pipeline": 20,
        "max_parallel_agents": 10,
        "max_teams": 10,
    }
    assert info["features"] == {
        "process_mining": True,
        "audit_trail": False,
        "multi_tenant": False,
        "human_interaction": True,
        "external_actions": True,
    }


def test_nothing_is_logged_when_there_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        manager(license_key=key())

    assert caplog.text == ""
