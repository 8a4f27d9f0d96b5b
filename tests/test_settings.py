"""Settings come from the environment, some also under the name that they had before."""

from urllib.parse import unquote, urlsplit

import pytest
from pydantic import ValidationError

from upsert_svc import settings
from upsert_svc.settings import Settings


@pytest.mark.parametrize(
    ("name", "earlier", "field", "default"),
    [
        ("BATCH_CONNECTIONS", "LANES", "batch_connections", 1),
        ("BATCH_LOCK_TIMEOUT_SECONDS", "LANE_LOCK_TIMEOUT_SECONDS", "batch_lock_timeout_seconds", 0.1),
    ],
)
def test_a_setting_goes_by_its_earlier_name_too(
    monkeypatch: pytest.MonkeyPatch, name: str, earlier: str, field: str, default: float
) -> None:
    assert getattr(Settings(), field) == default
    monkeypatch.setenv(f"UPSERT_SVC_{earlier}", "3")
    assert getattr(Settings(), field) == 3
    monkeypatch.setenv(f"UPSERT_SVC_{name}", "5")
    assert getattr(Settings(), field) == 5


@pytest.mark.parametrize("name", ["LANES", "BATCH_CONNECTIONS", "POOL_SIZE"])
def test_a_wrong_setting_is_named_as_it_was_set_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"UPSERT_SVC_{name}", "x99")
    (told,) = problems()
    assert told.startswith(f"UPSERT_SVC_{name}: ")
    assert "x99" not in told


def problems() -> list[str]:
    """What the operator is told of the settings in the environment."""
    with pytest.raises(ValidationError) as caught:
        Settings()
    return list(map(settings.problem, caught.value.errors()))


URL = "must be a URL such as postgresql://user:password@host:5432/database"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("BOOTSTRAP_TOKEN", "short", "must have at least 32 characters"),
        ("SECRET_KEY", "short", "must have at least 32 characters"),
        ("BOOTSTRAP_EMAIL", "a:b@x", "must be an e-mail address"),
        ("RATE_LIMIT_TOKEN", "5/fortnight", "must be requests per time"),
        ("MEMORY_LIMIT_BYTES", "64MB", "must be a number of bytes, such as 67108864"),
        ("STATEMENT_TIMEOUT_SECONDS", "10s", "must be a number of seconds, such as 2.5"),
        ("STATEMENT_TIMEOUT_SECONDS", "0", "must be at least 0.001"),
        ("SHUTDOWN_TIMEOUT_SECONDS", "1.5", "must be a whole number of seconds, such as 20"),
        ("POOL_SIZE", "ten", "must be a whole number"),
        ("POOL_SIZE", "0", "must be at least 1"),
        ("OBJECT_LIMIT", "9" * 12, "must be at most 2147483647"),
        ("LOG_REQUESTS", "oui", "must be true or false"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "10.0.0.1/8 is an address within a block: write 10.0.0.0/8"),
        ("TRUSTED_PROXIES", "proxy", "must be blocks of addresses, such as 10.0.0.0/8,192.168.1.7/32"),
        ("DATA_DIR", "", "must name a directory"),
        ("DATABASE_PASSWORD", "", "must not be empty"),
        ("DATABASE_URL", "", URL),
        ("DATABASE_URL", "nonsense", URL),
        ("DATABASE_URL", "mysql://u:secret@h/db", URL),
        ("DATABASE_URL", "postgresql://u:secret@h", URL),
        ("DATABASE_URL", "postgresql://u:secret@h:x/db", URL),
        ("DATABASE_URL", "postgresql://u:secret@h:99999/db", URL),
        ("DATABASE_URL", "postgresql://u:sec/ret@h:5432/db", URL),
        ("DATABASE_URL", "postgresql://u:sec#ret@h:5432/db", URL),
        ("DATABASE_URL", "postgresql://u:sec?ret@h:5432/db", URL),
        ("DATABASE_URL", "postgresql://u:secret@[h/db", URL),
        ("DATABASE_URL", "postgresql:///db", URL),
        ("MIGRATION_DATABASE_URL", "sqlite://x", URL),
        ("DATABASE_URL", "postgresql://u:secret@h/db?bogus=1", "the parameter bogus is not known"),
        ("DATABASE_URL", "postgresql://u:secret@h/db?sslmode=on", "sslmode must be one of disable, "),
        ("DATABASE_URL", "postgresql://u:secret@h/db?sslrootcert=", "the parameter sslrootcert is empty"),
        ("DATABASE_URL", "postgresql://u:secret@h/db?port=x", "port must be a number"),
    ],
)
def test_a_wrong_setting_is_one_line_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"UPSERT_SVC_{name}", value)
    (line,) = problems()
    assert line.startswith(f"UPSERT_SVC_{name}: {told}")
    assert "\n" not in line
    assert "ret" not in line.removeprefix(f"UPSERT_SVC_{name}: {told}")


TIMES = sorted(name for name in Settings.model_fields if name.endswith("_seconds"))


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e9"])
@pytest.mark.parametrize("name", TIMES)
def test_no_time_is_endless(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"UPSERT_SVC_{name.upper()}", value)
    (line,) = problems()
    assert line.startswith(f"UPSERT_SVC_{name.upper()}: must be ")


def test_every_number_has_an_upper_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float):
            assert any(hasattr(bound, "le") for bound in field.metadata), name


PASSWORD = "a/b#c?d%e@f:g h+i=&'\"$(x)\\"


def test_a_password_of_any_characters_is_a_setting_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSERT_SVC_DATABASE_URL", "postgresql://u@h:5432/db?sslmode=require")
    monkeypatch.setenv("UPSERT_SVC_DATABASE_PASSWORD", PASSWORD)
    url = urlsplit(Settings().service_url or "")
    assert (url.username, unquote(url.password or "")) == ("u", PASSWORD)
    assert (url.hostname, url.port, url.path, url.query) == ("h", 5432, "/db", "sslmode=require")


@pytest.mark.parametrize("url", ["postgresql://u:p@h/db", "postgresql://h/db", None])
def test_a_password_beside_a_url_that_takes_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.setenv("UPSERT_SVC_MIGRATION_DATABASE_PASSWORD", "secret")
    if url:
        monkeypatch.setenv("UPSERT_SVC_MIGRATION_DATABASE_URL", url)
    (line,) = problems()
    assert "UPSERT_SVC_MIGRATION_DATABASE_PASSWORD" in line
    assert "UPSERT_SVC_MIGRATION_DATABASE_URL" in line
    assert "secret" not in line


def test_a_variable_that_is_no_setting_is_told_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.unknown([]) == []
    for name in ("LANES", "POOL_SIZE", "DATABASE_PASSWORD"):
        monkeypatch.setenv(f"UPSERT_SVC_{name}", "1")
    assert settings.unknown([]) == []
    monkeypatch.setenv("UPSERT_SVC_LOG_REQUEST", "1")
    monkeypatch.setenv("UPSERT_SVC_TOKEN", "1")
    assert settings.unknown({"UPSERT_SVC_TOKEN"}) == [
        "UPSERT_SVC_LOG_REQUEST is not a setting; do you mean UPSERT_SVC_LOG_REQUESTS?"
    ]
    assert len(settings.unknown([])) == 2
