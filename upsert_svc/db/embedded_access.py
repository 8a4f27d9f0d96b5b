"""Who may log in to the embedded server: which users of this machine, as which of its two roles.

The socket asks the kernel who calls (`peer`). root and the user of the data directory may come as the owner
and as the service; nobody else may, not even the user that the server runs as.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import tempfile
from pathlib import Path

from upsert_svc.db.pools import SERVICE_ROLE

if sys.platform != "win32":
    import pwd

OWNER, DATABASE = "upsert_owner", "upsert_svc"
_MAP = "upsert_svc"
_NOTE = "# upsert-svc keeps the lines below: the system users that pg_ident.conf names, by the kernel's word."
_RULES = (
    _NOTE,
    f"local all {OWNER},{SERVICE_ROLE} peer map={_MAP}",
    f"local replication {OWNER} peer map={_MAP}",
)
# as initdb wrote them for earlier versions: whoever reached the socket was whom he said he was
_TRUSTING = re.compile(r"^(local\s+(?:all|replication)\s+all\s+)trust\s*$", re.MULTILINE)

# What the cluster's own databases let the service do; nothing is written where it is so already.
GRANTS = f"""
    select 'create role {SERVICE_ROLE} login'
     where not exists (select from pg_roles where rolname = '{SERVICE_ROLE}') \\gexec
    select 'alter role {SERVICE_ROLE} login'
      from pg_roles where rolname = '{SERVICE_ROLE}' and not rolcanlogin \\gexec
    select format('revoke connect, temporary on database %I from public', datname) from pg_database
     where datname in ('postgres', 'template1', '{DATABASE}')
       and (has_database_privilege('public', oid, 'connect')
            or has_database_privilege('public', oid, 'temporary')) \\gexec
    select 'grant connect on database {DATABASE} to {SERVICE_ROLE}'
     where not has_database_privilege('{SERVICE_ROLE}', '{DATABASE}', 'connect') \\gexec
"""  # noqa: S608 (made of constants)


def restrict(pgdata: Path, users: set[int]) -> bool:
    """Let these users (uids) in, and no others; whether that changed anything.

    What an operator has added to the files stays. Raises OSError.
    """
    hba, ident = pgdata / "pg_hba.conf", pgdata / "pg_ident.conf"
    is_hba_new = _replace(hba, _hba(_read(hba)))
    return _replace(ident, _ident(_read(ident), users)) or is_hba_new


def _hba(text: str) -> str:
    kept = [line for line in text.splitlines() if line not in _RULES]
    return _TRUSTING.sub(r"\1peer", "\n".join((*_RULES, *kept, "")))


def _ident(text: str, users: set[int]) -> str:
    """The first rule that fits decides, so the order of ours and others does not matter: the map is ours."""
    kept = [line for line in text.splitlines() if line != _NOTE and not re.match(rf"{_MAP}\s", line)]
    names = []
    for uid in sorted(users):
        with contextlib.suppress(KeyError):  # PostgreSQL knows no nameless users
            names.append(pwd.getpwuid(uid).pw_name)
    rules = [f'{_MAP} "{name}" {role}' for name in names for role in (OWNER, SERVICE_ROLE)]
    return "\n".join((*kept, _NOTE, *rules, ""))


def _read(file: Path) -> str:
    """The text of a file that another user may write to: not through a link of his."""
    with os.fdopen(
        os.open(file, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8", errors="surrogateescape"
    ) as opened:
        return opened.read()


def _replace(file: Path, text: str) -> bool:
    """Whether the text is another one than the file has; then the file has it, whole or not at all."""
    if _read(file) == text:
        return False
    before = file.lstat()
    descriptor, new = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as opened:
            opened.write(text)
            opened.flush()
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fsync(descriptor)
        os.replace(new, file)
    except BaseException:
        os.unlink(new)
        raise
    return True
