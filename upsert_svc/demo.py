"""The demo of `upsert-svc serve --demo`: an admin's token and an object to try requests on."""

import os
import secrets
import shlex
from pathlib import Path

from upsert_svc.accounts import tokens
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db.pools import connected, owner_transaction
from upsert_svc.definitions.fields import NAME_FIELD
from upsert_svc.errors import RecordNotFound
from upsert_svc.mistakes import Mistake
from upsert_svc.payloads import FieldBody, ObjectBody, PropertiesBody
from upsert_svc.service import Service, compose
from upsert_svc.settings import Settings

OBJECT_KEY = "car"
EMAIL = "demo@example.com"
_FIELDS = (
    FieldBody(key="color", type="text", title="Color"),
    FieldBody(key="year", type="integer", title="Year"),
    FieldBody(key="price", type="decimal", title="Price"),
    FieldBody(key="electric", type="checkbox", title="Electric"),
    FieldBody(key="specs", type="json", title="Specifications"),
)


class DemoError(Mistake):
    """The demo cannot be shown; the message says why."""


async def prepare(settings: Settings, url: str, token_file: Path) -> str:
    """Makes the demo's token and object where they are missing; answers the token.

    The token is kept in a file that only its owner can read, so that every start shows the same one.
    Raises DemoError, and UnreachableDatabase.
    """
    try:
        token = _kept_token(token_file)
    except (OSError, UnicodeError) as error:
        raise DemoError(f"The demo's token cannot be kept in {token_file}: {error}") from error
    async with owner_transaction(url) as connection:
        await tokens.create(
            connection, account=tokens.DEFAULT_ACCOUNT, email=EMAIL, role="admin", name="demo", token=token
        )
        principal = await tokens.find(connection, tokens.digest(token))
    if principal is None:
        raise DemoError(f"The demo's token was revoked: delete {token_file} for a new one")
    async with connected(settings, url) as database:
        await _ensure_object(compose(settings, database, cursor_key=b""), principal)
    return token


async def _ensure_object(service: Service, principal: Principal) -> None:
    try:
        await service.objects.show(principal, OBJECT_KEY)
    except RecordNotFound:
        await service.objects.create(
            principal, ObjectBody(key=OBJECT_KEY, title="Car", title_pluralized="Cars")
        )
        for field in _FIELDS:
            await service.object_fields.create(principal, OBJECT_KEY, field)
        naming = FieldBody(properties=PropertiesBody(is_unique=True))
        await service.object_fields.update(principal, OBJECT_KEY, NAME_FIELD, naming)


def _kept_token(token_file: Path) -> str:
    if token_file.exists():
        token_file.chmod(0o600)  # whoever copied the data directory may have opened it to others
        if kept := token_file.read_text(encoding="ascii").strip():
            return kept
        token_file.unlink()
    token = f"upsert_{secrets.token_urlsafe(32)}"
    descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


def introduction(address: str, token_file: Path) -> str:
    """What a newcomer is shown: two requests to paste, which read the token from its file.

    What is printed ends up in logs and on screens; the token stays where its owner alone can read it.
    """
    url = f"{address}/api/v2/custom_objects/{OBJECT_KEY}/records?external_id=VIN-1"
    body = '{"custom_object_record": {"name": "Ada", "custom_object_fields": {"color": "red", "year": 2026}}}'
    curl = (
        f"curl -i -X PATCH '{url}' -H \"Authorization: Bearer $(cat {shlex.quote(str(token_file))})\" "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
    return "\n".join(
        (
            f"Serving at {address}",
            f"The token of an admin, {EMAIL}, is in {token_file}",
            "",
            "Create a record, or update it if it is there:",
            f"  {curl}",
            "The same again changes nothing, and says so (Upsert-Result: unchanged):",
            f"  {curl}",
        )
    )
