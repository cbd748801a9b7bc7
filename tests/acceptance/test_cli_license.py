"""`llmteam license`: what it says, what it changes, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmteam.canvas.fleet import connect
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.runs import Start
from llmteam.crypto import SigningKey
from llmteam.settings import Settings
from llmteam.tenancy import TenantLimitExceededError
from tests.acceptance.command_line import DONE, FAILED, UNREACHABLE, USAGE, CommandLine
from tests.services import PostgresService

pytestmark = pytest.mark.timeout(180)

SEGMENT = SegmentDefinition.from_dict(
    {
        "segment_id": "one",
        "name": "One",
        "steps": [{"step_id": "a", "step_type": "transform", "config": {"expression": "1"}}],
    }
)
VENDOR = SigningKey.generate()
TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    folder = tmp_path_factory.mktemp("licences")
    (folder / "vendor.pem").write_bytes(VENDOR.to_pem())
    (folder / "public.pem").write_bytes(VENDOR.verify_key.to_pem())
    yield CommandLine(
        folder,
        LLMTEAM_DATABASE_URL=own.create(),
        LLMTEAM_BROKER_URL=valkey,
        LLMTEAM_LICENSE_PUBLIC_KEY=str(folder / "public.pem"),
    )
    own.drop_all()


@pytest.fixture
def offline(llmteam: CommandLine) -> dict[str, str]:
    """Settings under which no server can be reached."""
    return {"LLMTEAM_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x", "LLMTEAM_BROKER_URL": "redis://127.0.0.1:9/0"}


def issue(llmteam: CommandLine, name: str, *options: str, tier: str = "professional", **env: str) -> Path:
    """A key in a file."""
    given = ("--private-key", "vendor.pem", "--tier", tier, "--owner", "Acme", "--id", name)
    last = () if "--expires" in options else ("--expires", str(TODAY + timedelta(days=30)))
    done = llmteam("license", "issue", *given, *last, *options, **env)
    assert done.returncode == DONE, done.stderr
    path = llmteam.folder / f"{name}.key"
    path.write_text(done.stdout)
    return path


def start(llmteam: CommandLine, tenant_id: str) -> None:
    """A run that nobody works on."""
    runs = connect(Settings.load(llmteam.env))
    try:
        runs.start(Start(tenant_id, SEGMENT, 1))
    finally:
        runs.close()


def test_a_key_is_issued_and_verified_without_any_server(llmteam: CommandLine, offline: dict[str, str]) -> None:
    path = issue(llmteam, "lic-1", "--tenant", "acme", "--limit", "teams=25", "--feature", "beta", **offline)

    told = llmteam("license", "verify", path, "--tenant", "acme", **offline)
    found = json.loads(llmteam("license", "verify", path, "--json", **offline).stdout)

    assert (told.returncode, told.stderr.startswith("the licence lic-1 of Acme holds for tenant acme")) == (DONE, True)
    assert found["valid"] is True
    assert (found["license"]["tenant_id"], found["license"]["limits"]) == ("acme", {"teams": 25})
    assert "beta" in found["license"]["features"]
    from_input = llmteam("license", "verify", "-", stdin=path.read_text(), **offline)
    assert from_input.returncode == DONE
    assert llmteam("license", "install", path, "--tenant", "acme", **offline).returncode == UNREACHABLE


@pytest.mark.parametrize(
    ("options", "environment", "fault", "words"),
    [
        (("--tenant", "globex"), {}, "other tenant", "it is for the tenant 'acme', not for 'globex'"),
        ((), {"LLMTEAM_LICENSE_REVOKED": "lic-2"}, "revoked", "'lic-2' was revoked"),
        ((), {"LLMTEAM_LICENSE_PUBLIC_KEY": ""}, "no public key", "set LLMTEAM_LICENSE_PUBLIC_KEY"),
    ],
)
def test_a_key_that_grants_nothing_here_says_why(
    llmteam: CommandLine, options: tuple[str, ...], environment: dict[str, str], fault: str, words: str
) -> None:
    path = issue(llmteam, "lic-2", "--tenant", "acme")

    told = llmteam("license", "verify", path, *options, **environment)
    found = llmteam("license", "verify", path, *options, "--json", **environment)

    assert (told.returncode, found.returncode) == (FAILED, FAILED)
    assert words in told.stderr
    assert (json.loads(found.stdout)["valid"], json.loads(found.stdout)["fault"]) == (False, fault)
    assert path.read_text()[30:60] not in told.stderr + found.stdout


def test_a_key_that_was_altered_or_is_of_another_signer_is_not_installed(llmteam: CommandLine) -> None:
    genuine = issue(llmteam, "lic-3").read_text().strip()
    other = SigningKey.generate().verify_key.to_pem()
    (llmteam.folder / "other.pem").write_bytes(other)
    form, signer, payload, digest, signature = genuine.split(".")
    altered = ".".join((form, signer, payload[:-4] + ("AAAA" if payload[-4:] != "AAAA" else "BBBB"), digest, signature))

    refused = {
        "(altered)": llmteam("license", "install", "-", "--tenant", "forger", stdin=altered),
        "(malformed): at character 1": llmteam("license", "install", "-", "--tenant", "forger", stdin="x" + genuine),
        "(wrong key)": llmteam(
            "license", "install", "-", "--tenant", "forger", stdin=genuine, LLMTEAM_LICENSE_PUBLIC_KEY="other.pem"
        ),
        "(signature)": llmteam(
            "license", "install", "-", "--tenant", "forger", stdin="LLMT-ENT-any-20301231", LLMTEAM_LICENSE_UNSIGNED="1"
        ),
    }

    for words, done in refused.items():
        assert done.returncode == FAILED
        assert words in done.stderr
    assert llmteam.json("license", "show", "--tenant", "forger")["record"] is None
    assert llmteam.json("audit", "report", "--tenant", "forger")["total_events"] == 0


def test_a_key_of_yesterday_or_tomorrow_is_not_installed(llmteam: CommandLine) -> None:
    past = issue(llmteam, "past", "--starts", "2026-01-01", "--expires", str(TODAY - timedelta(days=2)))
    later = issue(llmteam, "later", "--starts", str(TODAY + timedelta(days=2)))

    over, early = (llmteam("license", "install", path, "--tenant", "acme") for path in (past, later))

    assert f"'past' expired on {TODAY - timedelta(days=2)}" in over.stderr
    assert f"(not yet valid): it begins on {TODAY + timedelta(days=2)}" in early.stderr
    assert (over.returncode, early.returncode) == (FAILED, FAILED)


def test_an_installed_licence_holds_for_starts_and_is_shown_with_its_history(llmteam: CommandLine) -> None:
    llmteam("tenants", "create", "shop", "--tier", "professional")
    assert llmteam.json("license", "show", "--tenant", "shop")["limits"]["concurrent_pipelines"] == 10

    installed = llmteam.json(
        "license", "install", issue(llmteam, "lic-4", "--limit", "pipelines=2"), "--tenant", "shop", "--by", "ann"
    )

    assert (installed["version"], installed["set_by"], installed["license"]["license_id"]) == (1, "ann", "lic-4")
    start(llmteam, "shop")
    start(llmteam, "shop")
    with pytest.raises(TenantLimitExceededError):
        start(llmteam, "shop")
    llmteam("license", "set", "enterprise", "--tenant", "shop", "--if-version", "1")
    start(llmteam, "shop")
    stale = llmteam("license", "set", "community", "--tenant", "shop", "--if-version", "1")
    assert (stale.returncode, "since its version 1 was read" in stale.stderr) == (FAILED, True)
    shown = llmteam.json("license", "show", "--tenant", "shop", "--history")
    assert (shown["state"], shown["tier"], shown["limits"]["concurrent_pipelines"]) == ("valid", "enterprise", 10)
    assert [(one["version"], one["license"]["tier"]) for one in shown["history"]] == [
        (2, "enterprise"),
        (1, "professional"),
    ]
    report = llmteam.json("audit", "report", "--tenant", "shop")
    assert report["events_by_type"]["config.policy_changed"] == 2
    assert "ann" in report["events_by_actor"]


def test_a_licence_that_is_revoked_is_worth_the_lowest_tier_until_it_is_removed(llmteam: CommandLine) -> None:
    path = issue(llmteam, "lic-5", tier="enterprise")
    llmteam("license", "install", path, "--tenant", "cafe")

    told = [llmteam("license", "revoke", "lic-5", "--tenant", "cafe").stderr for _ in range(2)]

    assert [text.endswith("as it was before\n") for text in told] == [False, True]
    assert "enterprise, worth community" in llmteam("license", "show", "--tenant", "cafe").stdout
    start(llmteam, "cafe")
    with pytest.raises(TenantLimitExceededError):
        start(llmteam, "cafe")
    assert "'lic-5' was revoked" in llmteam("license", "install", path, "--tenant", "cafe").stderr
    llmteam("license", "remove", "--tenant", "cafe")
    start(llmteam, "cafe")
    assert "none: its tier alone decides" in llmteam("license", "show", "--tenant", "cafe").stdout


def test_wrong_words_are_refused(llmteam: CommandLine) -> None:
    issuing = ("license", "issue", "--private-key", "vendor.pem", "--owner", "Acme", "--expires", "2090-12-31")
    wrong = {
        "teams=25": (*issuing, "--tier", "community", "--limit", "teams"),
        "There is no limit 'moons'": (*issuing, "--tier", "community", "--limit", "moons=1"),
        "grace: it is no whole number": (*issuing, "--tier", "community", "--grace-days", "1000"),
        "gold": (*issuing, "--tier", "gold"),
        "no Ed25519 private key": (*issuing[:3], "public.pem", *issuing[4:], "--tier", "community"),
        "does not exist": ("license", "verify", "nothing.key"),
        "no Ed25519 public key": ("license", "verify", "vendor.pem", "--public-key", "vendor.pem"),
        "is not usable": ("license", "set", "community", "--tenant", "no tenant"),
    }

    for words, arguments in wrong.items():
        done = llmteam(*arguments)
        assert (done.returncode, words in done.stderr) == (USAGE, True), (words, done.stderr)


def test_a_key_file_that_others_may_write_is_not_trusted(llmteam: CommandLine) -> None:
    public = llmteam.folder / "open.pem"
    public.write_bytes(VENDOR.verify_key.to_pem())
    public.chmod(0o666)

    done = llmteam("license", "verify", issue(llmteam, "lic-6"), LLMTEAM_LICENSE_PUBLIC_KEY=str(public))

    assert (done.returncode, "chmod go-w" in done.stderr) == (USAGE, True)
