"""What the URL of a database may say: checked before it is used, and told in the operator's words.

Not one message repeats the URL, which has a password in it.
"""

from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

EXAMPLE = "postgresql://user:password@host:5432/database"
_SHAPE = f"must be a URL such as {EXAMPLE}"
_ADDRESS = frozenset({"host", "port"})
_TLS = frozenset(
    {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation"}
    | {"ssl_min_protocol_version", "ssl_max_protocol_version"}
)
_KNOWN = _ADDRESS | _TLS | {"ssl"}
_VALUES = {
    "ssl": ("true", "false"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
}


def checked(url: str) -> str:
    """The URL, if it names a PostgreSQL database. Raises ValueError with the reason."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{_SHAPE}; in a password write @ : / # ? % as %40 %3A %2F %23 %3F %25") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(_SHAPE)
    if parts.fragment or port == 0 or not parts.path.strip("/"):
        raise ValueError(f"{_SHAPE}; in a password write # / ? as %23 %2F %3F")
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in parameters:
        _require_known(name, value)
    if not (parts.hostname or dict(parameters).get("host")):
        raise ValueError(_SHAPE)
    return url


def _require_known(name: str, value: str) -> None:
    if name not in _KNOWN:
        raise ValueError(f"the parameter {name[:40]} is not known; known are {', '.join(sorted(_KNOWN))}")
    if name in _VALUES and value.lower() not in _VALUES[name]:
        raise ValueError(f"{name} must be one of {', '.join(_VALUES[name])}")
    if name == "port" and not (value.isascii() and value.isdigit() and 0 < int(value) < 65_536):
        raise ValueError("port must be a number from 1 to 65535")
    if not value:
        raise ValueError(f"the parameter {name} is empty")


def with_password(url: str, password: str) -> str:
    """The same URL with this password, of any characters. Raises ValueError where it has one, or no user."""
    parts = urlsplit(checked(url))
    if not parts.username or parts.password is not None:
        raise ValueError("must name a user and no password where the password is a setting of its own")
    user, _, address = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.rstrip(':')}:{quote(password, safe='')}@{address}"))


def beside_the_address(url: str) -> str:
    """A URL with what the library of the pools leaves out of this one: a port of its query, and TLS."""
    kept = [item for item in parse_qsl(urlsplit(url).query) if item[0] in _TLS | {"port"}]
    return f"postgresql:///?{urlencode(kept)}" if kept else "postgresql:///"
