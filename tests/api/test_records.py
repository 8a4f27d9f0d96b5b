"""The upsert table of docs/api.md, row by row, over HTTP."""

from harness import Api, record_of

YEAR = {"key": "year", "type": "integer"}
COLOR = {"key": "color", "type": "text"}
NAME_TAKEN = "Name already exists. Try another one."


async def test_an_unknown_external_id_with_a_name_is_created_and_answered_with_200(api: Api) -> None:
    key = await api.new_object(YEAR)
    response = await api.upsert(
        key, {"name": "Ford", "custom_object_fields": {"year": 1999}}, external_id="v1"
    )
    assert response.status_code == 200
    assert response.headers["Upsert-Result"] == "created"
    record = record_of(response)
    assert response.headers["Location"].endswith(f"/custom_objects/{key}/records/{record['id']}")
    assert (record["name"], record["external_id"]) == ("Ford", "v1")
    assert record["custom_object_fields"] == {"year": 1999}


async def test_a_known_external_id_changes_only_what_is_sent(api: Api) -> None:
    key = await api.new_object(YEAR, COLOR)
    first = record_of(
        await api.upsert(
            key, {"name": "Ford", "custom_object_fields": {"year": 1, "color": "red"}}, external_id="v1"
        )
    )
    response = await api.upsert(key, {"custom_object_fields": {"year": 2}}, external_id="v1")
    assert response.headers["Upsert-Result"] == "updated"
    assert record_of(response) == first | {
        "custom_object_fields": {"year": 2, "color": "red"},
        "updated_at": record_of(response)["updated_at"],
    }
