"""Settings: what is read, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam import variables
from llmteam.errors import ConfigurationError
from llmteam.settings import Settings, mask_url

KEY = base64.b64encode(b"k" * 32).decode()


def load(**variables: str) -> Settings:
    return Settings.load(variables)


def test_an_empty_environment_gives_the_embedded_servers_and_the_defaults() -> None:
    settings = load()

    assert (settings.database_url, settings.broker_url, settings.redis_url) == (None, None, None)
    assert settings == Settings()
    assert {source for _, _, source in settings.sources()} == {"default"}


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(LLMTEAM_DATABASE_URL="", LLMTEAM_LEASE_SECONDS="  ") == Settings()


def test_every_kind_of_value_is_read() -> None:
    settings = load(
        LLMTEAM_HOME="/srv/llmteam",
        LLMTEAM_IMPORTS="myapp.steps, myapp.tools,",
        LLMTEAM_ENCRYPTION_KEYS=f"new:{KEY},old:{KEY}",
        LLMTEAM_START_KEYS=f"acme={KEY}",
        LLMTEAM_ALLOW_PRIVATE_NETWORKS="localhost:8080,10.0.0.0/8:443,[fd00::/8]:443",
        LLMTEAM_LEASE_SECONDS="2.5",
        LLMTEAM_LOG_LEVEL="debug",
        LLMTEAM_LOG_FORMAT="JSON",
        LLMTEAM_MAX_OUTPUT_BYTES="2048",
        LLMTEAM_INLINE_BYTES="100",
        OPENAI_BASE_URL="http://localhost:11434/v1",
    )

    assert settings.home == Path("/srv/llmteam")
    assert settings.imports == ("myapp.steps", "myapp.tools")
    assert settings.encryption_keys == (("new", b"k" * 32), ("old", b"k" * 32))
    assert settings.start_keys == {"acme": b"k" * 32}
    assert settings.allow_private_networks == ("localhost:8080", "10.0.0.0/8:443", "[fd00::/8]:443")
    assert (settings.lease_seconds, settings.log_level, settings.log_format) == (2.5, "DEBUG", "json")
    assert (settings.max_output_bytes, settings.inline_bytes) == (2048, 100)
    assert settings.openai_base_url == "http://localhost:11434/v1"


@pytest.mark.parametrize(
    ("broker", "redis"),
    [
        ("redis://cache:6379/3", "redis://cache:6379/3"),
        ("rediss://:pw@cache/1", "rediss://:pw@cache/1"),
        ("redis+socket:///run/v.sock?virtual_host=2", "unix:///run/v.sock?db=2"),
        ("redis+socket:///run/v.sock", "unix:///run/v.sock?db=0"),
        ("redis+socket://user:pw@/run/v.sock", "unix://user:pw@/run/v.sock?db=0"),
    ],
)
def test_redis_and_results_follow_a_redis_broker(broker: str, redis: str) -> None:
    settings = load(LLMTEAM_BROKER_URL=broker)

    assert settings.redis_url == redis
    assert settings.result_backend == broker
    assert settings.origins["redis_url"] == "from LLMTEAM_BROKER_URL"


SENTINELS = "sentinel://:p%40w@one:26379;sentinel://two;sentinel://[::1]:7/3?master_name=jobs"


def test_sentinels_are_read_with_the_name_login_and_database_of_their_primary() -> None:
    settings = load(LLMTEAM_BROKER_URL=SENTINELS)

    assert settings.redis_url == settings.result_backend == settings.broker_url == SENTINELS
    found = variables.sentinels_of(SENTINELS)
    assert found is not None
    assert found.addresses == (("one", 26379), ("two", 26379), ("::1", 7))
    assert (found.name, found.database, found.username, found.password) == ("jobs", 3, None, "p@w")


def test_celery_gets_sentinels_as_it_writes_them_and_the_name_apart() -> None:
    url, options = variables.celery_url(SENTINELS)

    assert url == ";".join(f"sentinel://:p%40w@{place}/3" for place in ("one:26379", "two:26379", "[::1]:7"))
    assert options == {"master_name": "jobs"}
    assert variables.celery_url("redis://cache/1") == ("redis://cache/1", {})


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://one:26379;sentinel://two:26379/0",
        "sentinel://one:port?master_name=jobs",
        "sentinel://one?master_name=jobs;redis://two",
        "sentinel://one/zero?master_name=jobs",
        "sentinel://?master_name=jobs",
    ],
)
def test_sentinels_that_name_no_primary_or_are_misspelled_are_refused_by_what_is_missing(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"LLMTEAM_BROKER_URL is .*master_name=NAME: name the primary"):
        load(LLMTEAM_BROKER_URL=url)


def test_a_broker_that_is_no_redis_serves_neither_results_nor_wake_ups() -> None:
    settings = load(LLMTEAM_BROKER_URL="amqp://rabbit//")

    assert (settings.redis_url, settings.result_backend) == (None, None)


def test_the_login_of_migrations_is_that_of_the_rest_unless_it_is_set() -> None:
    one_login = {"LLMTEAM_DATABASE_URL": "postgresql://app@db/x"}
    two_logins = one_login | {"LLMTEAM_MIGRATION_URL": "postgresql://dba:hunter2@db/x"}

    shown = [value for one in (one_login, two_logins) for name, value, _ in load(**one).sources() if "MIGR" in name]

    assert shown == ["as LLMTEAM_DATABASE_URL", "postgresql://dba:***@db/x"]


def test_a_login_of_migrations_without_the_database_of_the_rest_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_MIGRATION_URL is set and LLMTEAM_DATABASE_URL is not"):
        load(LLMTEAM_MIGRATION_URL="postgresql://dba@db/x")


def test_embedded_servers_bring_the_login_of_migrations_with_their_database() -> None:
    embedded = {"database_url": "postgresql://a@/x", "migration_url": "postgresql://b@/x", "broker_url": "redis://c/0"}

    assert load().with_servers(**embedded).migration_url == "postgresql://b@/x"
    assert load(LLMTEAM_DATABASE_URL="postgresql://db/app").with_servers(**embedded).migration_url is None


def test_an_own_redis_is_not_replaced_by_the_broker() -> None:
    settings = load(LLMTEAM_BROKER_URL="redis://broker/0", LLMTEAM_REDIS_URL="redis+socket:///r.sock?virtual_host=4")

    assert settings.redis_url == "unix:///r.sock?db=4"
    assert settings.origins["redis_url"] == "environment"


def test_embedded_servers_fill_only_what_was_not_set() -> None:
    settings = load(LLMTEAM_DATABASE_URL="postgresql://db/app").with_servers(
        database_url="postgresql:///embedded", broker_url="redis+socket:///v.sock?virtual_host=0"
    )

    assert settings.database_url == "postgresql://db/app"
    assert settings.redis_url == "unix:///v.sock?db=0"
    assert settings.origins["broker_url"] == "embedded server"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLMTEAM_DATABASE_URL", "mysql://host/db"),
        ("LLMTEAM_DATABASE_URL", "postgresql+asyncpg://host/db"),
        ("LLMTEAM_DATABASE_URL", "http://[broken"),
        ("LLMTEAM_BROKER_URL", "localhost:6379"),
        ("LLMTEAM_BROKER_URL", "unix:///run/v.sock"),
        ("LLMTEAM_REDIS_URL", "amqp://rabbit"),
        ("LLMTEAM_IMPORTS", "myapp/steps.py"),
        ("LLMTEAM_ENCRYPTION_KEYS", KEY),
        ("LLMTEAM_ENCRYPTION_KEYS", "a:c2hvcnQ="),
        ("LLMTEAM_ENCRYPTION_KEYS", f"a:{KEY},a:{KEY}"),
        ("LLMTEAM_ENCRYPTION_KEYS", "a:!!!"),
        ("LLMTEAM_START_KEYS", f"a b={KEY}"),
        ("LLMTEAM_START_KEYS", "acme=c2hvcnQ="),
        ("LLMTEAM_ALLOW_PRIVATE_NETWORKS", "10.0.0.0/8"),
        ("LLMTEAM_ALLOW_PRIVATE_NETWORKS", "host:0"),
        ("LLMTEAM_ALLOW_PRIVATE_NETWORKS", "http://host:80"),
        ("LLMTEAM_LEASE_SECONDS", "soon"),
        ("LLMTEAM_LEASE_SECONDS", "nan"),
        ("LLMTEAM_LEASE_SECONDS", "-1"),
        ("LLMTEAM_LOG_LEVEL", "LOUD"),
        ("LLMTEAM_LOG_FORMAT", "xml"),
        ("LLMTEAM_MAX_OUTPUT_BYTES", "1MB"),
        ("LLMTEAM_INLINE_BYTES", "2000000"),
        ("OPENAI_BASE_URL", "localhost:11434"),
        ("LLMTEAM_TRACES", "collector:4318"),
        ("LLMTEAM_TRACES_RATIO", "10%"),
        ("LLMTEAM_TRACES_RATIO", "nan"),
        ("LLMTEAM_TRACES_HOSTS", "http://api.example.com"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_the_name_of_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.load({name: value})


def test_no_secret_is_shown_by_sources_repr_or_errors() -> None:
    settings = load(
        LLMTEAM_DATABASE_URL="postgresql://app:hunter2@db/app?sslpassword=hunter2",
        LLMTEAM_BROKER_URL="redis://:hunter2@cache/0",
        LLMTEAM_ENCRYPTION_KEYS=f"k1:{KEY}",
        LLMTEAM_START_KEYS=f"acme={KEY}",
        OPENAI_API_KEY="hunter2",
        ANTHROPIC_API_KEY="hunter2",
    )

    shown = f"{settings!r} {settings.sources()}"

    assert "hunter2" not in shown
    assert KEY not in shown
    assert ("LLMTEAM_DATABASE_URL", "postgresql://app:***@db/app?sslpassword=***", "environment") in settings.sources()
    with pytest.raises(ConfigurationError) as raised:
        load(LLMTEAM_ENCRYPTION_KEYS=f"{KEY}:hunter2")
    assert KEY not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_settings_are_frozen_hashable_and_survive_pickling() -> None:
    settings = load(LLMTEAM_START_KEYS=f"acme={KEY}", LLMTEAM_BROKER_URL="redis://h/0")

    assert pickle.loads(pickle.dumps(settings)) == settings
    assert hash(settings) == hash(pickle.loads(pickle.dumps(settings)))
    with pytest.raises(AttributeError):
        settings.log_level = "DEBUG"  # type: ignore[misc]


@given(
    before=st.sampled_from(["postgresql://user", "redis://", "amqp://u", "postgres:u", "u", "postgresql://"]),
    secret=st.text("abc/?#@:&= %[]", min_size=1).map(lambda text: f"S3{text}S3"),
    after=st.sampled_from(["host/db", "host:5432/db?sslmode=require", "[::1]:6379/0", "host/db?host=/tmp/x"]),
)
def test_whatever_stands_in_the_place_of_a_password_is_masked(before: str, secret: str, after: str) -> None:
    assert "S3" not in mask_url(f"{before}:{secret}@{after}")


LONG = "a-key-that-nobody-guesses-0123456789"
NOTIFYING = {
    "LLMTEAM_WEB_KEYS": f"{LONG}, {LONG}2",
    "LLMTEAM_PUBLIC_URL": "https://inbox.example.com/team/",
    "LLMTEAM_NOTIFY_WEBHOOK_URL": "https://hooks.example.com/in/s3cret",
    "LLMTEAM_NOTIFY_WEBHOOK_KEY": f"{LONG},3",
    "LLMTEAM_NOTIFY_SLACK_URL": "https://hooks.slack.com/services/T0/B0/s3cret",
    "LLMTEAM_NOTIFY_TEAMS_URL": "https://teams.example.com/s3cret",
    "LLMTEAM_SMTP_URL": "smtp://ada:s3cret@mail.example.com:587?from=inbox@example.com&starttls=1",
    "LLMTEAM_NOTIFY_ATTEMPTS": "3",
}


def test_what_notifications_need_is_read() -> None:
    settings = load(**NOTIFYING)

    assert settings.web_keys == (LONG.encode(), f"{LONG}2".encode())
    assert settings.public_url == "https://inbox.example.com/team"
    assert settings.notify_webhook_key == f"{LONG},3".encode()
    assert settings.notify_attempts == 3


def test_addresses_and_keys_of_notifications_are_not_shown() -> None:
    settings = load(**NOTIFYING)

    shown = repr(settings) + str(settings.sources())

    assert "s3cret" not in shown
    assert LONG not in shown
    assert "https://hooks.slack.com/***" in shown
    assert "smtp://mail.example.com:587/***" in shown


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("LLMTEAM_WEB_KEYS", f"{LONG},s3cret", "entry 2 is not at least 32 characters"),
        ("LLMTEAM_NOTIFY_WEBHOOK_KEY", "s3cret", "at least 32 characters"),
        ("LLMTEAM_PUBLIC_URL", "inbox.example.com", "http or https"),
        ("LLMTEAM_PUBLIC_URL", "https://inbox.example.com/?team=1", "without user, query"),
        ("LLMTEAM_NOTIFY_SLACK_URL", "hooks.slack.com/s3cret", "http or https"),
        ("LLMTEAM_SMTP_URL", "mail.example.com:587/s3cret", "smtp://"),
        ("LLMTEAM_SMTP_URL", "smtp://ada:s3cret@mail.example.com", r"from=inbox@example\.com"),
        ("LLMTEAM_NOTIFY_ATTEMPTS", "0", "from 1 to"),
    ],
)
def test_what_notifications_cannot_use_is_refused_without_being_told(name: str, value: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        load(**{name: value})

    assert name in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_value_may_come_from_a_file_and_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "broker_url"
    file.write_text("redis://:secret@cache:6379/3\n")

    settings = load(LLMTEAM_BROKER_URL_FILE=str(file))

    assert settings.broker_url == "redis://:secret@cache:6379/3"
    assert ("LLMTEAM_BROKER_URL", "redis://:***@cache:6379/3", f"file {file}") in settings.sources()


def test_a_value_and_a_file_with_one_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_WEB_KEYS and LLMTEAM_WEB_KEYS_FILE are both set") as caught:
        load(LLMTEAM_WEB_KEYS="k" * 32, LLMTEAM_WEB_KEYS_FILE=str(tmp_path / "keys"))

    assert "kkk" not in str(caught.value)


def test_a_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")

    with pytest.raises(ConfigurationError, match=r"LLMTEAM_REGION_FILE: .*empty is empty"):
        load(LLMTEAM_REGION_FILE=str(tmp_path / "empty"))
    with pytest.raises(ConfigurationError, match=r"LLMTEAM_REGION_FILE: .*missing cannot be read \(No such file"):
        load(LLMTEAM_REGION_FILE=str(tmp_path / "missing"))


def test_what_is_wrong_in_a_file_is_said_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("main:not-a-secret-to-be-shown")

    with pytest.raises(ConfigurationError, match="LLMTEAM_ENCRYPTION_KEYS") as caught:
        load(LLMTEAM_ENCRYPTION_KEYS_FILE=str(tmp_path / "keys"))

    assert "not-a-secret" not in str(caught.value)


@pytest.mark.parametrize(("text", "shown"), [("0.0.0.0:9808", "0.0.0.0:9808"), ("[::1]:0", "[::1]:0")])
def test_where_to_listen_is_a_host_and_a_port(text: str, shown: str) -> None:
    assert dict(row[:2] for row in load(LLMTEAM_HEALTH=text).sources())["LLMTEAM_HEALTH"] == shown


@pytest.mark.parametrize("text", ["9808", ":9808", "::1:9808", "localhost", "localhost:70000"])
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_HEALTH"):
        load(LLMTEAM_HEALTH=text)


@pytest.mark.parametrize(
    ("variables", "traces", "source"),
    [
        ({"LLMTEAM_TRACES": "http://c:4318"}, "http://c:4318/v1/traces", "environment"),
        ({"LLMTEAM_TRACES": "https://c/otlp/traces"}, "https://c/otlp/traces", "environment"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/otlp/"},
            "http://c:4318/otlp/v1/traces",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:1/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
            "http://t:1/x",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ),
        (
            {"LLMTEAM_TRACES": "http://a", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"},
            "http://a/v1/traces",
            "environment",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None, None),
    ],
)
def test_where_traces_go_is_said_by_a_variable_of_ours_or_by_those_of_opentelemetry(
    variables: dict[str, str], traces: str | None, source: str | None
) -> None:
    settings = Settings.load(variables)

    assert (settings.traces, settings.origins.get("traces")) == (traces, source)


def test_a_password_for_the_collector_is_not_shown() -> None:
    settings = load(
        LLMTEAM_TRACES="https://team:s3cret@c.example", LLMTEAM_TRACES_RATIO="0.25", LLMTEAM_TRACES_HOSTS="*"
    )

    assert "s3cret" not in repr(settings) + str(settings.sources())
    assert (settings.traces_ratio, settings.traces_hosts) == (0.25, ("*",))
