"""The settings, read once from the environment (prefix UPSERT_SVC_)."""

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

import limits
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    InstanceOf,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Network = IPv4Network | IPv6Network
_PREFIX = "UPSERT_SVC_"

_RATE = re.compile(r"[1-9]\d{0,8}( ?/ ?| per )([1-9]\d{0,3} ?)?(second|minute|hour|day)s?", re.ASCII)


def _rate(value: object) -> object:
    """The rate of a text such as 700/minute; the library alone would overlook a second one, and a zero."""
    if isinstance(value, str):
        if not _RATE.fullmatch(value.strip().lower()):
            raise ValueError("must be requests per time, both above 0, such as 700/minute or 50/10 seconds")
        return limits.parse(value)
    return value


RateLimit = Annotated[InstanceOf[limits.RateLimitItem], BeforeValidator(_rate)]


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


class Settings(BaseSettings):
    """Everything that can be set from outside; docs/operations.md explains each.

    Without a database URL an embedded PostgreSQL is kept in `data_dir`.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, populate_by_name=True)

    database_url: SecretStr | None = None
    migration_database_url: SecretStr | None = None
    data_dir: Path = Path("data")

    bootstrap_email: str | None = None
    bootstrap_token: SecretStr | None = Field(default=None, min_length=32)
    secret_key: SecretStr | None = Field(default=None, min_length=32)

    pool_size: int = Field(default=10, ge=1, le=500)
    search_connections: int = Field(default=2, ge=1, le=500)
    batch_connections: int = _renamed("batch_connections", default=1, ge=1, le=16)
    batch_lock_timeout_seconds: float = _renamed("batch_lock_timeout_seconds", default=0.1, gt=0)
    write_queue: int = Field(default=5000, ge=2)
    write_wait_seconds: float = Field(default=5, gt=0)
    pool_waiters: int = Field(default=1000, ge=1)
    acquire_timeout_seconds: float = Field(default=3, gt=0)
    statement_timeout_seconds: float = Field(default=10, gt=0)
    lock_timeout_seconds: float = Field(default=5, gt=0)

    memory_limit_bytes: int = Field(default=96 * 1024 * 1024, ge=16 * 1024 * 1024)
    body_limit_bytes: int = Field(default=256 * 1024, ge=1024)
    job_body_limit_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    body_timeout_seconds: float = Field(default=10, gt=0)
    shutdown_delay_seconds: float = Field(default=1, ge=0, le=300)
    shutdown_timeout_seconds: int = Field(default=20, ge=1)
    token_ttl_seconds: float = Field(default=1, ge=0, le=1)

    connection_limit: int = Field(default=1000, ge=10)
    request_limit: int = Field(default=1000, ge=2)
    write_timeout_seconds: float = Field(default=10, gt=0)

    object_limit: int = Field(default=10_000, ge=1)
    record_limit: int = Field(default=50_000_000, ge=1)
    field_limit: int = Field(default=100, ge=1)

    rate_limit_account: RateLimit | None = None
    rate_limit_token: RateLimit | None = None
    run_jobs: bool = True
    job_limit: int = Field(default=30, ge=1)

    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = (
        ip_network("127.0.0.0/8"),
        ip_network("::1/128"),
    )
    log_requests: bool = False

    @property
    def host_proxies(self) -> tuple[Network, ...]:
        """The proxies whose X-Forwarded-Host counts: those that the operator named.

        Not every proxy on this host strips that of a client; that one is there must be said.
        """
        return self.trusted_proxies if "trusted_proxies" in self.model_fields_set else ()

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ip_network(block.strip()) for block in value.split(",") if block.strip())
        return value

    @model_validator(mode="after")
    def _bootstrap_is_whole(self) -> "Settings":
        if (self.bootstrap_email is None) != (self.bootstrap_token is None):
            raise ValueError("UPSERT_SVC_BOOTSTRAP_EMAIL and UPSERT_SVC_BOOTSTRAP_TOKEN belong together")
        return self
