"""The settings, read once from the environment (prefix UPSERT_SVC_)."""

import difflib
import os
import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

import limits
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    InstanceOf,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from upsert_svc import database_urls

Network = IPv4Network | IPv6Network
_PREFIX = "UPSERT_SVC_"

_RATE = re.compile(r"[1-9]\d{0,8}( ?/ ?| per )([1-9]\d{0,3} ?)?(second|minute|hour|day)s?", re.ASCII)

_EMAIL_LIMIT = 254
_EMAIL = re.compile(r"[^@\s:]+@[^@\s:]+")


def _rate(value: object) -> object:
    """The rate of a text such as 700/minute; the library alone would overlook a second one, and a zero."""
    if isinstance(value, str):
        if not _RATE.fullmatch(value.strip().lower()):
            raise ValueError("must be requests per time, both above 0, such as 700/minute or 50/10 seconds")
        return limits.parse(value)
    return value


def _database_url(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return SecretStr(database_urls.checked(text)) if isinstance(text, str) else value


def _networks(value: object) -> object:
    if isinstance(value, str):
        return tuple(_network(block.strip()) for block in value.split(",") if block.strip())
    return value


def _network(block: str) -> Network:
    try:
        meant = ip_network(block, strict=False)
    except ValueError:
        raise ValueError("must be blocks of addresses, such as 10.0.0.0/8,192.168.1.7/32") from None
    if "/" in block and str(meant.network_address) != str(ip_address(block.partition("/")[0])):
        raise ValueError(f"{block} is an address within a block: write {meant}")
    return meant


def _directory(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must name a directory")
    return value


RateLimit = Annotated[InstanceOf[limits.RateLimitItem], BeforeValidator(_rate)]
DatabaseUrl = Annotated[SecretStr, BeforeValidator(_database_url)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
Directory = Annotated[Path, BeforeValidator(_directory)]
_LONGEST_SECONDS = 3600
_OF_SECONDS: dict[str, Any] = {"ge": 0.001, "le": _LONGEST_SECONDS, "allow_inf_nan": False}
_LARGEST_COUNT = 2**31 - 1  # of an integer of PostgreSQL
_LARGEST_SIZE = 2**40


EARLIER_NAMES = {
    "batch_connections": "lanes",
    "batch_lock_timeout_seconds": "lane_lock_timeout_seconds",
}


def variable_of(name: str) -> str:
    """The environment variable that a setting comes from: where only its earlier name is set, that one."""
    variables = [f"{_PREFIX}{choice.upper()}" for choice in (name, EARLIER_NAMES.get(name, name))]
    is_set = {variable.upper() for variable in os.environ}  # which are read in any case
    return next((variable for variable in variables if variable in is_set), variables[0])


def _renamed(name: str, **constraints: Any) -> Any:
    """A setting that also goes by its earlier name; the new one wins."""
    names = AliasChoices(*(f"{_PREFIX}{choice.upper()}" for choice in (name, EARLIER_NAMES[name])))
    return Field(validation_alias=names, **constraints)


def _seconds(default: float, **constraints: Any) -> Any:
    """Some time, of which PostgreSQL is told whole milliseconds: none at all would be no limit."""
    return Field(default=default, **(_OF_SECONDS | constraints))


def _bytes(default: int, least: int) -> Any:
    return Field(default=default, ge=least, le=_LARGEST_SIZE)


def _count(default: int, least: int = 1, most: int = _LARGEST_COUNT) -> Any:
    return Field(default=default, ge=least, le=most)


class Settings(BaseSettings):
    """Everything that can be set from outside; docs/operations.md explains each.

    Without a database URL an embedded PostgreSQL is kept in `data_dir`.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, populate_by_name=True)

    database_url: DatabaseUrl | None = None
    database_password: SecretStr | None = Field(default=None, min_length=1)
    migration_database_url: DatabaseUrl | None = None
    migration_database_password: SecretStr | None = Field(default=None, min_length=1)
    data_dir: Directory = Path("data")

    bootstrap_email: str | None = None
    bootstrap_token: SecretStr | None = Field(default=None, min_length=32)
    secret_key: SecretStr | None = Field(default=None, min_length=32)

    pool_size: int = _count(10, most=500)
    search_connections: int = _count(2, most=500)
    batch_connections: int = _renamed("batch_connections", default=1, ge=1, le=16)
    batch_lock_timeout_seconds: float = _renamed("batch_lock_timeout_seconds", default=0.1, **_OF_SECONDS)
    write_queue: int = _count(5000, least=2)
    write_wait_seconds: float = _seconds(5)
    pool_waiters: int = _count(1000)
    acquire_timeout_seconds: float = _seconds(3)
    statement_timeout_seconds: float = _seconds(10)
    lock_timeout_seconds: float = _seconds(5)

    memory_limit_bytes: int = _bytes(96 * 1024 * 1024, least=16 * 1024 * 1024)
    body_limit_bytes: int = _bytes(256 * 1024, least=1024)
    job_body_limit_bytes: int = _bytes(16 * 1024 * 1024, least=1024)
    body_timeout_seconds: float = _seconds(10)
    shutdown_delay_seconds: float = _seconds(1, ge=0, le=300)
    shutdown_timeout_seconds: int = Field(default=20, ge=1, le=_LONGEST_SECONDS)
    token_ttl_seconds: float = _seconds(1, ge=0, le=1)

    connection_limit: int = _count(1000, least=10)
    request_limit: int = _count(1000, least=2)
    write_timeout_seconds: float = _seconds(10)

    object_limit: int = _count(10_000)
    record_limit: int = _count(50_000_000)
    field_limit: int = _count(100)

    rate_limit_account: RateLimit | None = None
    rate_limit_token: RateLimit | None = None
    run_jobs: bool = True
    job_limit: int = _count(30)

    trusted_proxies: Networks = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    log_requests: bool = False

    @property
    def service_url(self) -> str | None:
        """The URL of the login that serves, with its password."""
        return _whole(self.database_url, self.database_password)

    @property
    def owner_url(self) -> str | None:
        """The URL of the role that owns the schema, where it is another than the one that serves."""
        return _whole(self.migration_database_url, self.migration_database_password)

    @property
    def host_proxies(self) -> tuple[Network, ...]:
        """The proxies whose X-Forwarded-Host counts: those that the operator named.

        Not every proxy on this host strips that of a client; that one is there must be said.
        """
        return self.trusted_proxies if "trusted_proxies" in self.model_fields_set else ()

    @field_validator("*", mode="before")
    @classmethod
    def _utf8_alone(cls, value: Any, info: ValidationInfo) -> Any:
        """But for a path, which may be of any bytes."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and info.field_name != "data_dir" and not is_utf8(text):
            raise ValueError("must be UTF-8")
        return value

    @field_validator("bootstrap_email")
    @classmethod
    def _is_email(cls, value: str | None) -> str | None:
        return value and email_of(value)

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        if (self.bootstrap_email is None) != (self.bootstrap_token is None):
            raise ValueError("UPSERT_SVC_BOOTSTRAP_EMAIL and UPSERT_SVC_BOOTSTRAP_TOKEN belong together")
        for kind in ("database", "migration_database"):
            _require_whole(kind, getattr(self, f"{kind}_url"), getattr(self, f"{kind}_password"))
        return self


def is_utf8(text: str) -> bool:
    """Whether a text of the system's was UTF-8: Python makes lone surrogates of other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def email_of(text: str) -> str:
    """The text, if an e-mail address can be it: it is the name of a login over HTTP. Raises ValueError."""
    if not _EMAIL.fullmatch(text) or not text.isprintable() or len(text) > _EMAIL_LIMIT:
        raise ValueError(
            "must be an e-mail address: one @, something on both sides of it, no blank, no colon, "
            f"of at most {_EMAIL_LIMIT} characters"
        )
    return text


def _whole(url: SecretStr | None, password: SecretStr | None) -> str | None:
    if url is None:
        return None
    if password is None:
        return url.get_secret_value()
    return database_urls.with_password(url.get_secret_value(), password.get_secret_value())


def _require_whole(kind: str, url: SecretStr | None, password: SecretStr | None) -> None:
    """Raises ValueError where a password is set that no URL takes."""
    url_name, password_name = variable_of(f"{kind}_url"), variable_of(f"{kind}_password")
    if password is None:
        return
    if url is None:
        raise ValueError(f"{password_name} needs {url_name}, which has the rest of the address")
    try:
        _whole(url, password)
    except ValueError:
        raise ValueError(f"{url_name} must name a user, and no password beside {password_name}") from None


# What the operator is told


def unknown(known_beside: Iterable[str]) -> list[str]:
    """A sentence for each variable with the prefix that no command knows: a slip would be a setting unset."""
    known = {f"{_PREFIX}{name.upper()}" for name in (*Settings.model_fields, *EARLIER_NAMES.values())}
    known |= set(known_beside)
    names = sorted(name for name in os.environ if name.upper().startswith(_PREFIX))
    return [_not_a_setting(name, known) for name in names if name.upper() not in known]


def _not_a_setting(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.upper(), sorted(known), n=1)
    return f"{name} is not a setting" + (f"; do you mean {near[0]}?" if near else ": unset it")


def problem(item: ErrorDetails) -> str:
    """A wrong setting by name, without its value, which may be a secret."""
    names = [variable_of(str(part).lower().removeprefix(_PREFIX.lower())) for part in item["loc"][:1]]
    return ": ".join([*names, _said(item, names[0] if names else "")])


def _said(item: ErrorDetails, name: str) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "value_error":
            return str(context["error"])
        case "greater_than_equal":
            return f"must be at least {context['ge']:.15g}"
        case "less_than_equal":
            return f"must be at most {context['le']:.15g}"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
        case "too_short" | "string_too_short":
            least = context["min_length"]
            return f"must have at least {least} characters" if least > 1 else "must not be empty"
    if name.endswith("_BYTES"):
        return "must be a number of bytes, such as 67108864"
    if name.endswith("_SECONDS"):
        whole = item["type"].startswith("int")
        return f"must be a {'whole ' if whole else ''}number of seconds, such as {'20' if whole else '2.5'}"
    return "must be a whole number" if item["type"].startswith("int") else item["msg"]
