"""Who the caller is: the request by which clients of Zendesk try their connection."""

import httpx
import pytest

from tests.support.harness import Api

# what published clients read: zenpy, node-zendesk, zendesk_api, terraform, dlt
KEYS = {
    "id", "url", "name", "email", "role", "active", "verified", "suspended", "created_at", "updated_at",
    "last_login_at", "time_zone", "iana_time_zone", "locale", "locale_id", "external_id", "organization_id",
    "default_group_id", "custom_role_id", "role_type", "moderator", "restricted_agent", "ticket_restriction",
    "only_private_comments", "shared", "shared_agent", "two_factor_auth_enabled", "phone",
    "shared_phone_number", "photo", "alias", "details", "notes", "signature", "report_csv", "tags",
    "user_fields",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/users/me", "/users/me.json", "/users/me?include=abilities&locale=en"])
async def test_the_caller_is_told_who_they_are(api: Api, path: str) -> None:
    response = await api.client.get(path)
    assert response.status_code == 200, response.text
    user = response.json()["user"]
    assert set(user) == KEYS
    assert type(user["id"]) is int
    assert user["url"] == f"{str(api.client.base_url).rstrip('/')}/users/{user['id']}.json"
    assert user["email"].startswith(f"{user['name']}@")
    assert (user["role"], user["active"], user["verified"]) == ("admin", True, True)
    assert (user["tags"], user["user_fields"]) == ([], {})
    assert user["created_at"] == user["updated_at"]
    assert user["created_at"].endswith("Z")


async def test_the_user_is_the_one_that_records_are_written_by(api: Api, agent: Api) -> None:
    key = await api.new_object()
    for who, role in ((api, "admin"), (agent, "agent")):
        user = (await who.client.get("/users/me")).json()["user"]
        written = (await who.create(key, name=role)).json()["custom_object_record"]
        assert written["created_by_user_id"] == str(user["id"])
        assert user["role"] == role
        is_admin = role == "admin"
        by_role = (user["moderator"], user["report_csv"], user["role_type"])
        assert by_role == (is_admin, is_admin, 4 if is_admin else 0)


@pytest.mark.parametrize("credential", [{}, {"Authorization": "Bearer nobody's"}])
async def test_without_a_credential_nobody_is_told(api: Api, credential: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=api.client.base_url) as stranger:
        response = await stranger.get("/users/me", headers=credential)
    assert (response.status_code, response.json()) == (401, {"error": "Couldn't authenticate you"})


async def test_nobody_else_is_asked_for(api: Api) -> None:
    assert (await api.client.get("/users")).status_code == 404
    assert (await api.client.get("/users/1001")).status_code == 404
    assert (await api.client.post("/users/me", json={})).status_code == 405
