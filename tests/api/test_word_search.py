"""GET …/records/search: what words find, in which order, on pages of cursors; what is refused."""

from typing import Any

import httpx
import pytest

from tests.support.harness import Api, record_of


async def find(api: Api, key: str, text: str | None, **query: Any) -> httpx.Response:
    asked = query if text is None else {"query": text, **query}
    return await api.client.get(f"/custom_objects/{key}/records/search", params=asked)


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [record["name"] for record in response.json()["custom_object_records"]]


@pytest.fixture(scope="module")
async def cars(api: Api) -> str:
    """An object of a few cars with notes."""
    key = await api.new_object(
        {"key": "note", "type": "text"},
        {"key": "story", "type": "textarea"},
        {"key": "code", "type": "regexp", "regexp_for_validation": "[A-Z]+-[0-9]+"},
        {"key": "year", "type": "integer"},
        {"key": "color", "type": "dropdown", "custom_field_options": [{"name": "Red", "value": "red"}]},
        {"key": "specs", "type": "json"},
    )
    for name, fields in (
        ("Ford Fiesta", {"note": "blue, fast", "year": 1999, "color": "red"}),
        ("Fiat Panda", {"story": "A ford in the river.\nCold water", "code": "XY-77"}),
        ("Straße", {"note": "foo_bar.baz", "specs": {"inner": "hidden"}}),
        ("Caf\u00e9 racer", {"note": "ford", "story": "fiesta"}),
    ):
        assert (await api.create(key, name=name, custom_object_fields=fields)).status_code == 201
    return key


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("fiest", ["Ford Fiesta", "Café racer"]),  # by the beginning of a word
        ("iesta", []),
        ("FIESTA", ["Ford Fiesta", "Café racer"]),
        ("panda fiesta", ["Ford Fiesta", "Fiat Panda", "Café racer"]),  # one word is enough
        ("ford fiesta", ["Ford Fiesta", "Café racer", "Fiat Panda"]),  # more words first, then by the name
        ("ford ford FORD", ["Ford Fiesta", "Fiat Panda", "Café racer"]),  # a word counts once
        ("river", ["Fiat Panda"]),  # in a textarea
        ("xy", ["Fiat Panda"]),  # in a regexp field
        ("77", ["Fiat Panda"]),  # digits make words too
        ("STRASSE", ["Straße"]),
        ("strasse", ["Straße"]),
        ("cafe\u0301", ["Café racer"]),
        ("cafe", []),  # an accent counts
        ("bar", ["Straße"]),  # _ and . stand between words
        ("foo_bar", ["Straße"]),
        ("cold", ["Fiat Panda"]),  # behind a line break
        ("red", []),  # neither an option,
        ("1999", []),  # nor a number,
        ("hidden inner", []),  # nor a document is searched
        ("-- ' %", []),  # there is no word in it
        ("fiest*", ["Ford Fiesta", "Café racer"]),
        ("pan' | ''':*", ["Fiat Panda"]),
        ("x" * 255, []),
        ("*", ["Ford Fiesta", "Fiat Panda", "Straße", "Café racer"]),
        (" * ", ["Ford Fiesta", "Fiat Panda", "Straße", "Café racer"]),
    ],
)
async def test_a_record_is_found_where_a_word_of_it_begins_with_a_word_asked_for(
    api: Api, agent: Api, cars: str, text: str, found: list[str]
) -> None:
    assert names(await find(api, cars, text)) == found
    assert names(await find(agent, cars, text, sort="")) == found


async def test_every_path_and_method_of_a_get_answers(api: Api, cars: str) -> None:
    path = f"/custom_objects/{cars}/records/search"
    plain = await api.client.get(path, params={"query": "ford", "locale": "en", "page": "1"})
    suffixed = await api.client.get(f"{path}.json", params={"query": "ford"})
    assert names(plain) == names(suffixed)
    head = await api.client.head(path, params={"query": "ford"})
    assert (head.status_code, head.content) == (200, b"")
    assert plain.json().keys() == {"custom_object_records", "count", "meta", "links"}


@pytest.mark.parametrize("sort", ["name", "-name", "created_at", "-created_at", "updated_at", "-updated_at"])
@pytest.mark.parametrize("text", ["ford", "*"])
async def test_what_is_found_is_sorted(api: Api, cars: str, sort: str, text: str) -> None:
    expected = names(await find(api, cars, text))
    if sort.endswith("name"):
        expected.sort()
    else:
        expected = [name for name in names(await find(api, cars, "*")) if name in expected]
    if sort.startswith("-"):
        expected.reverse()
    assert names(await find(api, cars, text, sort=sort)) == expected


@pytest.mark.parametrize("sort", ["", "-name", "updated_at"])
@pytest.mark.parametrize("text", ["ford fiesta", "*"])
async def test_a_search_is_paged_both_ways(api: Api, cars: str, text: str, sort: str) -> None:
    expected = names(await find(api, cars, text, sort=sort))
    page = await find(api, cars, text, sort=sort, **{"page[size]": 1})
    seen = names(page)
    while following := page.json()["links"]["next"]:
        page = await api.client.get(following)
        seen += names(page)
    assert seen == expected
    while preceding := page.json()["links"]["prev"]:
        page = await api.client.get(preceding)
        seen = [*names(page), *seen]
    assert seen == expected[:-1] + expected
    assert page.json()["meta"]["before_cursor"] is None


async def test_a_cursor_is_good_for_its_own_search_alone(api: Api, cars: str) -> None:
    cursor = (await find(api, cars, "ford", **{"page[size]": 1})).json()["meta"]["after_cursor"]
    assert (await find(api, cars, "ford", **{"page[after]": cursor})).status_code == 200
    for text, sort in (("fiat", ""), ("*", ""), ("ford", "name")):
        response = await find(api, cars, text, sort=sort, **{"page[after]": cursor})
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    listed = await api.client.get(f"/custom_objects/{cars}/records", params={"page[after]": cursor})
    assert listed.status_code == 400


@pytest.mark.parametrize(
    ("text", "query", "said"),
    [
        (None, {}, "query"),
        ("", {}, "query"),
        ("  ", {}, "query"),
        ("x" * 256, {}, "query is longer than 255 characters"),
        (" ".join(map(str, range(21))), {}, "query has more than 20 words"),
        ("ford", {"sort": "id"}, "sort"),
        ("ford", {"sort": "relevance"}, "sort"),
        ("ford", {"page[size]": "101"}, "page[size]"),
        ("ford", {"page[after]": "x"}, "page[after]"),
    ],
)
async def test_what_is_no_search_is_a_bad_request_that_says_why(
    api: Api, cars: str, text: str | None, query: dict[str, Any], said: str
) -> None:
    response = await find(api, cars, text, **query)
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert said in response.json()["description"]


async def test_twenty_words_and_their_repetitions_are_no_more_than_twenty(api: Api, cars: str) -> None:
    text = " ".join(map(str, range(20)))
    assert (await find(api, cars, f"{text} 0 1 2")).status_code == 200


async def test_a_long_word_is_compared_by_its_first_64_characters(api: Api) -> None:
    key = await api.new_object()
    await api.create(key, name=f"{'x' * 64}abc")
    assert len(names(await find(api, key, "x" * 64))) == 1
    assert len(names(await find(api, key, f"{'x' * 64}other"))) == 1
    assert names(await find(api, key, f"{'x' * 63}y")) == []


async def test_what_was_written_is_found_at_once_and_what_was_deleted_is_not(api: Api) -> None:
    key = await api.new_object({"key": "note", "type": "text"})
    made = record_of(await api.create(key, name="one", custom_object_fields={"note": "early"}))
    assert names(await find(api, key, "early")) == ["one"]
    url = f"/custom_objects/{key}/records/{made['id']}"
    await api.client.patch(
        url, json={"custom_object_record": {"name": "two", "custom_object_fields": {"note": "late"}}}
    )
    assert names(await find(api, key, "early one")) == []
    assert names(await find(api, key, "late")) == ["two"]
    await api.client.delete(url)
    assert names(await find(api, key, "late two")) == []


async def test_what_a_definition_hides_or_removed_is_not_found(api: Api) -> None:
    key = await api.new_object({"key": "note", "type": "text"})
    await api.create(key, name="one", custom_object_fields={"note": "secret"})
    field = f"/custom_objects/{key}/fields/note"
    for active, found in ((False, []), (True, ["one"])):
        assert (
            await api.client.patch(field, json={"custom_object_field": {"active": active}})
        ).status_code == 200
        assert names(await find(api, key, "secret")) == found
    await api.client.delete(field)
    assert names(await find(api, key, "secret")) == []
    await api.new_field(key, key="note", type="text")
    assert names(await find(api, key, "secret")) == []


async def test_a_search_finds_nothing_of_another_account_or_object(
    api: Api, stranger: Api, cars: str
) -> None:
    assert (await find(stranger, cars, "ford")).status_code == 404
    assert (await find(stranger, cars, "*")).status_code == 404
    other = await api.new_object()
    assert names(await find(api, other, "ford")) == []
