"""A write never does what was not asked for, and a list answers what was asked or says that it cannot.

By the route table: what an operation does not take of the closed list is refused by name, and nothing is
written.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.endpoints import (
    ENDPOINTS,
    NO_NAMES,
    READ_ENDPOINTS,
    WRITE_ENDPOINTS,
    Endpoint,
    Place,
    ask,
    each,
)
from tests.support.harness import Api, problems_of, record_of
from upsert_svc.api.parameters import (
    CONDITIONS,
    CREATION,
    CURSOR,
    DRY_RUN,
    FILTERS,
    FLAGS,
    IDENTIFIERS,
    PAGES,
    REPLACING,
)

DRY_RUNS = [endpoint for endpoint in WRITE_ENDPOINTS if endpoint.operation.takes >= DRY_RUN]
PAGED = [endpoint for endpoint in READ_ENDPOINTS if endpoint.operation.takes >= PAGES]
OVERRIDES = ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"]
SPELLINGS = [
    "dryRun=true", "dry-run=true", "DRY_RUN=true", "Dry_Run=false", "dryrun", "dry_run[]=true",
    "dry.run=true", "dry%20run=true", "dry+run=true", "dry_run[0]=true", "dry_run[true]", "dry_run[]",
    "?dry_run=true", "?dry_run", "amp;dry_run=true", "%EF%BB%BFdry_run=true", "x;dry_run=true",
    "x=1;dry_run=true", "x=1?dry_run=true", "x=;DryRun=1", "dry_run;x=1", "dry%E2%80%91run=true",
]  # fmt: skip
HARMLESS = (
    "locale=en&page=1&per_page=100&page_size=100&sort=&external_id=&name=&strategy=&dataOnly=&filter[ids]="
    "&filter[external_ids]=&page[number]=&field_id=6&source=x&filter[dynamic_values][a]=b&organization_id=7"
    "&requester_id=5&include=x&page=abc&page=1.0&offset=0&page_size=5&pageSize=5&utm_source=x;y&x=1;z=2&dry=true&name_of=x&filtered=x&_=1"
)


def without(*taken: str) -> pytest.MarkDecorator:
    """Has a test run for each endpoint that takes none of these."""
    return each([endpoint for endpoint in ENDPOINTS if endpoint.operation.takes.isdisjoint(taken)])


def also(endpoint: Endpoint, *added: str) -> str:
    """The query that the endpoint wants, and more."""
    return "&".join(part for part in (urlencode(endpoint.query), *added) if part)


def assert_named(response: httpx.Response, name: str) -> None:
    said = f"{response.request.method} {response.request.url}: {response.text}"
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest"), said
    assert name in response.json()["description"], said


async def targets(api: Api, endpoint: Endpoint) -> Mapping[str, str]:
    """What to put in the path of a write that may be carried out."""
    key = await api.new_object({"key": "color", "type": "text"}, naming={"is_unique": True})
    if endpoint.method == "POST":
        return {"key": key}
    return {"key": key, "id": record_of(await api.create(key, name="Ford", external_id="v1"))["id"]}


async def definition(api: Api, key: str) -> tuple[Any, ...]:
    paths = (f"/custom_objects/{key}", f"/custom_objects/{key}/fields", "/custom_objects/limits/object_limit")
    return (*[(await api.client.get(path)).json() for path in paths], await api.records(key))


# Dry runs


@each(DRY_RUNS)
async def test_a_dry_run_answers_as_the_write_would_and_changes_nothing(api: Api, endpoint: Endpoint) -> None:
    place = Place("", "color", "", "")
    names = await targets(api, endpoint)
    before = await definition(api, names["key"])
    imagined = await ask(api, place, endpoint, names=names, query=also(endpoint, "dry_run=true"))
    assert await definition(api, names["key"]) == before
    real = await ask(api, place, endpoint, names=names)
    assert real.is_success, real.text
    assert imagined.status_code == real.status_code, imagined.text
    assert _shape(imagined) == _shape(real)
    if endpoint.path.endswith("/custom_objects"):
        await api.client.delete(f"/custom_objects/{endpoint.body['custom_object']['key']}")


def _shape(response: httpx.Response) -> Any:
    """What is the same of two answers, one of which numbers what it makes."""
    text = re.sub(r"[0-9a-f]{32}|[0-9A-Z]{26}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|\d{3,}", "…", response.text)
    headers = {name for name in response.headers if name not in ("etag", "upsert-result")}
    return text, headers


@pytest.mark.parametrize("by", ["id", "external_id", "name"])
async def test_a_dry_run_of_a_deletion_meets_what_the_deletion_would_meet(api: Api, by: str) -> None:
    key = await api.new_object(naming={"is_unique": True})
    made = await api.create(key, name="Ford", external_id="v1")
    record = record_of(made)
    root = f"/custom_objects/{key}/records"
    urls = {
        "id": f"{root}/{record['id']}?",
        "external_id": f"{root}?external_id=v1&",
        "name": f"{root}?name=Ford&",
    }
    missing = {
        "id": f"{root}/{'0' * 26}?",
        "external_id": f"{root}?external_id=v2&",
        "name": f"{root}?name=x&",
    }
    stale, current = {"If-Match": '"x"'}, {"If-Match": made.headers["ETag"]}
    answers = [
        await api.client.delete(f"{missing[by]}dry_run=true"),
        await api.client.delete(f"{urls[by]}dry_run=true", headers=stale),
        await api.client.delete(f"{urls[by]}dry_run=true", headers=current),
        await api.client.delete(f"{urls[by]}dry_run=TRUE"),
    ]
    assert [answer.status_code for answer in answers] == [404, 412, 204, 204]
    assert await api.records(key) == [record]
    assert (await api.client.delete(f"{urls[by]}dry_run=false")).status_code == 204
    assert await api.records(key) == []


async def test_a_dry_run_of_a_definition_is_refused_as_the_change_would_be(api: Api) -> None:
    key = await api.new_object({"key": "color", "type": "text"})
    taken = {"custom_object": {"key": key, "title": "x"}}
    assert (await api.client.post("/custom_objects?dry_run=true", json=taken)).status_code == 422
    assert (await api.client.delete(f"/custom_objects/{key}/fields/none?dry_run=true")).status_code == 404
    record_of(await api.create(key, name="Ford", custom_object_fields={"color": "red"}))
    assert (await api.client.delete(f"/custom_objects/{key}/fields/color?dry_run=true")).status_code == 204
    (record,) = await api.records(key)
    assert record["custom_object_fields"] == {"color": "red"}


@each(WRITE_ENDPOINTS)
async def test_a_dry_run_that_is_spelt_wrong_writes_nothing(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    for asked in (*SPELLINGS, "dry_run", "dry_run=", "dry_run=1", "dry_run=true&dry_run=false"):
        assert_named(await ask(api, place, endpoint, query=also(endpoint, asked)), "dry_run")
    assert await place.state(api) == before


# What is not taken


@without("dry_run")
@pytest.mark.parametrize("value", ["true", "false", ""])
async def test_a_dry_run_is_refused_where_there_is_none(
    api: Api, place: Place, endpoint: Endpoint, value: str
) -> None:
    before = await place.state(api)
    assert_named(await ask(api, place, endpoint, query=also(endpoint, f"dry_run={value}")), "dry_run")
    assert await place.state(api) == before


@without(*REPLACING)
async def test_what_goes_with_a_replacement_is_refused_elsewhere(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    for asked in (
        "strategy=replace", "strategy=bogus", "dataOnly=true", "data_only=true", "data.only=true", "dataOnly",
        "amp;strategy=merge", "?strategy=merge", "x=1;strategy=merge", "strategy[]=merge",
    ):  # fmt: skip
        response = await ask(api, place, endpoint, query=also(endpoint, asked))
        assert_named(response, asked.removeprefix("x=1").partition("=")[0])
        assert_named(response, "PUT of a record")
    assert await place.state(api) == before


@each([endpoint for endpoint in WRITE_ENDPOINTS if not endpoint.operation.takes & IDENTIFIERS])
async def test_a_write_is_refused_that_names_a_record_where_none_is_looked_for(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    for asked in (
        "external_id=v1", "name=Ford", "externalId=v1", "filter[external_ids]=v1", "external.id=v1",
        "external id=v1", "external_id[]=v1", "amp;external_id=v1", "?name=Ford", "ids=x", "external_ids=v1",
        "filters[ids]=x",
    ):  # fmt: skip
        assert_named(await ask(api, place, endpoint, query=also(endpoint, asked)), asked.partition("=")[0])
    assert await place.state(api) == before


@each([endpoint for endpoint in WRITE_ENDPOINTS if endpoint.operation.takes >= IDENTIFIERS])
@pytest.mark.parametrize(
    "asked",
    [
        "filter[ids]=x",
        "filter[name]=x",
        "filter=x",
        "externalId=v2",
        "ids=x",
        "external_ids=v2",
        "amp;name=x",
    ],
)
async def test_a_write_of_one_record_takes_no_filter(
    api: Api, place: Place, endpoint: Endpoint, asked: str
) -> None:
    before = await place.state(api)
    assert_named(await ask(api, place, endpoint, query=also(endpoint, asked)), asked.partition("=")[0])
    assert await place.state(api) == before


@each([endpoint for endpoint in WRITE_ENDPOINTS if endpoint.operation.takes >= REPLACING])
@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ("amp;strategy=merge", "strategy"),
        ("x=1;strategy=merge", "strategy"),
        ("data.only=true", "dataOnly"),
        ("dataOnly", "dataOnly must be true or false"),
        ("dataOnly=1", "dataOnly must be true or false"),
    ],
)
async def test_a_replacement_is_refused_whose_strategy_is_spelt_wrong(
    api: Api, place: Place, endpoint: Endpoint, asked: str, right: str
) -> None:
    before = await place.state(api)
    assert_named(await ask(api, place, endpoint, query=also(endpoint, asked)), right)
    assert await place.state(api) == before


@pytest.mark.parametrize("separator", [";", "?", "&amp;", "&?"])
@pytest.mark.parametrize("more", ["dry_run=true", "dry_run"])
@each([endpoint for endpoint in WRITE_ENDPOINTS if endpoint.operation.takes >= IDENTIFIERS])
async def test_a_dry_run_behind_another_separator_writes_nothing(
    api: Api, place: Place, endpoint: Endpoint, separator: str, more: str
) -> None:
    before = await place.state(api)
    response = await ask(api, place, endpoint, query=f"external_id=new{separator}{more}")
    assert_named(response, "write it dry_run")
    assert await place.state(api) == before


async def test_an_identifier_may_have_the_separators(api: Api) -> None:
    key = await api.new_object()
    for asked, kept in (
        ("A;B=c", "A;B=c"),
        ("what?", "what?"),
        ("A%3Bdry_run=true", "A;dry_run=true"),
        ("A%3Fname=x", "A?name=x"),
    ):
        url = f"/custom_objects/{key}/records?external_id={asked}"
        made = await api.client.patch(url, json={"custom_object_record": {"name": "Ford"}})
        assert record_of(made)["external_id"] == kept


@each(WRITE_ENDPOINTS)
@pytest.mark.parametrize("header", OVERRIDES)
async def test_a_write_is_refused_that_is_meant_for_another_method(
    api: Api, place: Place, endpoint: Endpoint, header: str
) -> None:
    before = await place.state(api)
    for method in {"PATCH", "PUT", "POST", "DELETE", "GET"} - {endpoint.method}:
        assert_named(await ask(api, place, endpoint, headers={header: method.lower()}), header)
    assert await place.state(api) == before


@each(WRITE_ENDPOINTS)
@pytest.mark.parametrize("name", ["_method", "_METHOD", "_HttpMethod", "x-http-method-override"])
async def test_a_write_is_refused_whose_query_means_another_method(
    api: Api, place: Place, endpoint: Endpoint, name: str
) -> None:
    before = await place.state(api)
    for method in {"PATCH", "PUT", "POST", "DELETE", "GET"} - {endpoint.method}:
        for asked in (f"{name}={method.lower()}", f"{name}={endpoint.method}&{name}={method}"):
            assert_named(await ask(api, place, endpoint, query=also(endpoint, asked)), name)
    assert await place.state(api) == before


@each(WRITE_ENDPOINTS)
async def test_a_write_under_a_time_is_refused_and_told_of_if_match(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    for value in ("Tue, 03 Feb 2026 09:10:11 GMT", "x"):
        response = await ask(api, place, endpoint, headers={"If-Unmodified-Since": value})
        assert_named(response, "If-Unmodified-Since")
        assert "If-Match" in response.json()["description"]
    assert await place.state(api) == before


async def test_a_read_that_is_meant_to_write_is_refused(api: Api, place: Place) -> None:
    url = place.url("/custom_objects/{key}/records/{id}")
    assert_named(await api.client.get(url, headers={OVERRIDES[0]: "DELETE"}), OVERRIDES[0])
    assert (await api.client.get(url, headers={OVERRIDES[0]: "GET"})).status_code == 200
    assert_named(await api.client.get(url, params={"_method": "delete"}), "_method")
    since = {"If-Unmodified-Since": "Tue, 03 Feb 2026 09:10:11 GMT"}
    assert (await api.client.get(url, params={"_method": "get"}, headers=since)).status_code == 200
    searched = await api.client.post(
        place.url("/custom_objects/{key}/records/search"),
        json={"filter": {"name": {"$eq": "Ford"}}},
        headers={OVERRIDES[0]: "GET"},
    )
    assert searched.status_code == 200


@each([endpoint for endpoint in WRITE_ENDPOINTS if endpoint.operation.takes.isdisjoint(CONDITIONS)])
@pytest.mark.parametrize("header", sorted(CONDITIONS))
@pytest.mark.parametrize("value", ['"x"', "*", "x"])
async def test_a_condition_is_refused_where_there_is_no_version_to_compare(
    api: Api, place: Place, endpoint: Endpoint, header: str, value: str
) -> None:
    if f"{header}: {value}" in endpoint.operation.takes:
        return
    before = await place.state(api)
    assert_named(await ask(api, place, endpoint, headers={header: value}), header)
    assert await place.state(api) == before


async def test_a_creation_may_ask_for_a_record_that_is_not_there(api: Api) -> None:
    assert [str(e) for e in ENDPOINTS if e.operation.takes & CREATION] == [
        "POST /custom_objects/{key}/records"
    ]
    key = await api.new_object()
    response = await api.client.post(
        f"/custom_objects/{key}/records",
        json={"custom_object_record": {"name": "Ford"}},
        headers={"If-None-Match": "*"},
    )
    assert response.status_code == 201


@each(ENDPOINTS)
async def test_what_is_harmless_is_ignored_by_every_endpoint(
    api: Api, endpoint: Endpoint, place: Place
) -> None:
    names = NO_NAMES if endpoint.operation.reads else await targets(api, endpoint)
    harmless = [part for part in HARMLESS.split("&") if part.partition("=")[0] not in endpoint.query]
    harmless += ["_method=", f"_method={endpoint.method}"]
    headers = {OVERRIDES[0]: endpoint.method, OVERRIDES[1]: "", "If-Unmodified-Since": ""}
    response = await ask(api, place, endpoint, names=names, query=also(endpoint, *harmless), headers=headers)
    assert response.is_success, response.text
    if str(endpoint) == "POST /custom_objects":
        await api.client.delete(f"/custom_objects/{endpoint.body['custom_object']['key']}")


# What is sent empty

CONTRACT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def documented_parameters() -> set[str]:
    """Every parameter of a query that the contract names, or the route table."""
    code = re.findall(r"`([^`\n]+)`", CONTRACT)
    named = {name for span in code for name in re.findall(r"(?:^|[?&])([A-Za-z_]+(?:\[\w+\])?)=", span)}
    named |= {span for span in code if re.fullmatch(r"(?:page|filter)\[\w+\]", span)}
    ignored = CONTRACT.partition("\n## Parameters\n")[2].partition("Not so")[0]
    named |= set(re.findall(r"`([a-z_]+(?:\[\w+\])?)", ignored))
    taken = {name for endpoint in ENDPOINTS for name in endpoint.operation.takes}
    return named | {name for name in taken if name[0].islower()}


EMPTY = sorted(documented_parameters() - DRY_RUN)  # of which an empty one counts


def test_the_parameters_that_may_be_empty_are_those_of_the_contract() -> None:
    assert set(EMPTY) >= {
        *IDENTIFIERS, *REPLACING, *FILTERS, *PAGES, *CURSOR, "filter[exclude_deleted]",
        "filter[dynamic_values]", "page", "page[size]", "page[before]", "page[number]", "sort", "query",
        "ids", "start_time", "per_page", "include_standard_fields", "locale", "field_id", "source",
        "organization_id", "requester_id",
    }  # fmt: skip


async def jobs_at_rest(api: Api) -> None:
    for job in (await api.client.get("/job_statuses")).json()["job_statuses"]:
        await api.finished(job["id"])


@each(ENDPOINTS)
async def test_a_client_that_sends_every_parameter_empty_is_answered_as_if_it_sent_none(
    api: Api, endpoint: Endpoint, place: Place
) -> None:
    empty = "&".join(f"{name}=" for name in EMPTY if name not in endpoint.query)
    answers = []
    await jobs_at_rest(api)  # those of other tests would change their list meanwhile
    for query in (also(endpoint), also(endpoint, empty)):
        names = NO_NAMES if endpoint.operation.reads else await targets(api, endpoint)
        answer = await ask(api, place, endpoint, names=names, query=query)
        assert answer.is_success, answer.text
        text, headers = _shape(answer)
        answers.append((answer.status_code, text.replace(names.get("key", place.key), "KEY"), headers))
        if str(endpoint) == "POST /custom_objects":
            await api.client.delete(f"/custom_objects/{endpoint.body['custom_object']['key']}")
    plain, asked = answers
    assert asked == plain


async def test_links_of_a_page_repeat_no_empty_parameter(
    api: Api, people: tuple[str, Mapping[str, str]]
) -> None:
    key, _ = people
    empty = "&".join(f"{name}=" for name in EMPTY if name != "page[size]")
    every = {"filter": {"name": {"$exists": True}}, "page": {"size": 1}}
    root = f"/custom_objects/{key}/records"
    for plain, asked in (
        (
            await api.client.get(f"{root}?page[size]=1"),
            await api.client.get(f"{root}?page[size]=1&{empty}"),
        ),
        (
            await api.client.post(f"{root}/search", json=every),
            await api.client.post(f"{root}/search?page[size]=&{empty}", json=every),
        ),
    ):
        page = asked.json()
        assert len(page["custom_object_records"]) == 1
        assert page == plain.json()
        assert "page%5Bsize%5D=1&" in page["links"]["next"]


async def test_links_of_a_page_repeat_a_value_with_a_semicolon_as_it_is(
    api: Api, people: tuple[str, Mapping[str, str]]
) -> None:
    key, _ = people
    page = (await api.client.get(f"/custom_objects/{key}/records/search?query=vin;x=1&page[size]=1")).json()
    assert (
        page["links"]["next"].partition("?")[2].startswith("query=vin%3Bx%3D1&page%5Bsize%5D=1&page%5Bafter")
    )


async def test_an_export_goes_on_though_every_other_parameter_is_empty(api: Api, place: Place) -> None:
    url = f"/incremental/custom_objects/{place.key}/cursor"
    cursor = (await api.client.get(f"{url}?start_time=0")).json()["after_cursor"]
    empty = "&".join(f"{name}=" for name in EMPTY if name != "cursor")
    plain = await api.client.get(url, params={"cursor": cursor})
    asked = await api.client.get(f"{url}?{urlencode({'cursor': cursor})}&{empty}")
    assert (asked.status_code, asked.json()) == (200, plain.json())


# Pages


@each(PAGED)
async def test_a_page_by_its_number_is_refused(api: Api, place: Place, endpoint: Endpoint) -> None:
    for asked in (
        "page=2", "page=02", "page=10&per_page=5", "page[number]=2", "page=2.0", "page=%2B2", "page[]=2",
        "pageNumber=2", "page_number=2", "page[After]=C", "page.after=C", "page_after=C", "page[after][]=C",
        "page[after][0]=C", "pageAfter=C", "page[offset]=100", "offset=100", "offset=x", "after=C",
        "cursor=C", "page[cursor]=C", "after_cursor=C", "amp;page[after]=C", "?page[after]=C", "page_token=C",
    ):  # fmt: skip
        assert_named(await ask(api, place, endpoint, query=also(endpoint, asked)), "page[after]")


@each(PAGED)
@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ("page.before=C", "page[before]"),
        ("page[Before]=C", "page[before]"),
        ("pageBefore=C", "page[before]"),
        ("before=C", "page[before]"),
        ("page.size=1", "page[size]"),
        ("page[Size]=1", "page[size]"),
        ("amp;page[size]=1", "page[size]"),
    ],
)
async def test_what_turns_pages_is_refused_in_another_spelling(
    api: Api, place: Place, endpoint: Endpoint, asked: str, right: str
) -> None:
    response = await ask(api, place, endpoint, query=also(endpoint, asked))
    assert_named(response, f"{asked.partition('=')[0]} is not taken here")
    assert right in response.json()["description"]


COUNTED = [
    (endpoint, name)
    for endpoint in READ_ENDPOINTS
    for name in sorted(endpoint.operation.takes)
    if name[0].islower()
]


@pytest.mark.parametrize(("endpoint", "name"), COUNTED, ids=lambda value: str(value))
async def test_what_a_read_takes_is_refused_where_it_is_given_twice(
    api: Api, place: Place, endpoint: Endpoint, name: str
) -> None:
    query = also(endpoint, f"{name}=1", f"{name}=2")
    assert_named(await ask(api, place, endpoint, query=query), f"{name} is given twice")


async def test_an_empty_parameter_beside_a_full_one_counts_as_absent(
    api: Api, people: tuple[str, Mapping[str, str]]
) -> None:
    key, _ = people
    root = f"/custom_objects/{key}/records"
    first = (await api.client.get(f"{root}?page[size]=1&page[size]=&page[size]=1")).json()
    after = first["meta"]["after_cursor"]
    second = [
        (await api.client.get(f"{root}?page[size]=1&{asked}")).json()
        for asked in (
            f"page[after]={after}",
            f"page[after]={after}&page[after]=",
            f"page[after]=&page[after]={after}",
        )
    ]
    assert len(first["custom_object_records"]) == 1
    assert first["custom_object_records"] != second[0]["custom_object_records"]
    assert second[0] == second[1] == second[2]


@each(PAGED)
async def test_a_list_without_its_object_is_missing_whatever_is_asked(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    if "{key}" in endpoint.path:
        asked = also(endpoint, "page_after=C")
        assert (await ask(api, place, endpoint, query=asked, names={"key": "nowhere"})).status_code == 404


@pytest.mark.parametrize("asked", ["ids=x", "ids[]=x", "filter[ids]=x", "Ids=x"])
async def test_a_list_of_jobs_points_to_where_some_are_shown(api: Api, asked: str) -> None:
    response = await api.client.get(f"/job_statuses?{asked}")
    assert_named(response, f"{asked.partition('=')[0]} is not taken here: job_statuses/show_many takes ids")


@pytest.mark.parametrize(
    ("endpoint", "flag"),
    [(endpoint, flag) for endpoint in ENDPOINTS for flag in sorted(endpoint.operation.takes & FLAGS)],
    ids=str,
)
async def test_a_flag_is_true_or_false_or_empty(
    api: Api, place: Place, endpoint: Endpoint, flag: str
) -> None:
    before = await place.state(api)
    bare = flag.replace("_", "%5F")
    for asked in (flag, bare, f"{flag}=1", f"{flag}=yes", f"{flag}=0", f"x=1&{flag}", f"{flag}&x"):
        response = await ask(api, place, endpoint, query=also(endpoint, asked))
        assert_named(response, f"{flag} must be true or false")
    assert await place.state(api) == before
    if endpoint.operation.reads:
        for asked in (f"{flag}=", f"{flag}=TRUE", f"{flag}=False"):
            assert (await ask(api, place, endpoint, query=also(endpoint, asked))).is_success


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/incremental/custom_objects/{key}/cursor?start_time=0&", "filter.exclude_deleted=true"),
        ("/incremental/custom_objects/{key}/cursor?start_time=0&", "filter[excludeDeleted]=true"),
        ("/incremental/custom_objects/{key}/cursor?start_time=0&", "exclude_deleted"),
        ("/incremental/custom_objects/{key}/cursor?start_time=0&", "amp;filter[exclude_deleted]=true"),
        ("/custom_objects/{key}/fields?", "includeStandardFields=true"),
        ("/custom_objects/{key}/fields?", "include.standard.fields"),
    ],
)
async def test_a_flag_of_a_list_is_refused_in_another_spelling(
    api: Api, place: Place, path: str, asked: str
) -> None:
    right = "include_standard_fields" if "/fields" in path else "filter[exclude_deleted]"
    response = await api.client.get(f"{place.url(path)}{asked}")
    assert_named(response, f"write it {right}")
    elsewhere = await api.client.get(f"/users/me?{asked}")
    assert elsewhere.status_code == 200


@pytest.mark.parametrize("asked", ["page[after]=x", "page[before]=x", "after=x", "Cursor=x", "offset=5"])
async def test_an_export_goes_on_by_its_own_cursor(api: Api, place: Place, asked: str) -> None:
    url = f"/incremental/custom_objects/{place.key}/cursor?start_time=0"
    assert_named(await api.client.get(f"{url}&{asked}"), "the export goes on with cursor")


async def test_an_export_has_no_numbered_pages(api: Api, place: Place) -> None:
    url = f"/incremental/custom_objects/{place.key}/cursor?start_time=0"
    assert_named(await api.client.get(f"{url}&page=2"), "cursor")
    assert_named(await api.client.get(f"{url}&external_id=v1"), "external_id")


# The body


@each([endpoint for endpoint in WRITE_ENDPOINTS if endpoint.has_body])
@pytest.mark.parametrize("name", ["dry_run", "dryRun", "DRY-RUN", "dry run", "dry.run", "?dry_run"])
async def test_a_dry_run_in_the_body_is_refused_and_belongs_into_the_query(
    api: Api, place: Place, endpoint: Endpoint, name: str
) -> None:
    before = await place.state(api)
    body = endpoint.body
    bodies = [{**body, name: True}, {**body, name: False}]
    if isinstance(body[endpoint.wrapper], dict):
        bodies.append({endpoint.wrapper: {**body[endpoint.wrapper], name: True}})
    for sent in bodies:
        response = await ask(api, place, endpoint, body=sent)
        assert_named(response, name)
        assert "dry_run belongs into the query" in response.json()["description"]
    assert await place.state(api) == before


DELETIONS = [endpoint for endpoint in WRITE_ENDPOINTS if endpoint.method == "DELETE"]
BODIES_OF_A_DRY_RUN = [
    b'{"dry_run": true}',
    b'{"dryRun": true}',
    b'\xef\xbb\xbf {"DRY-RUN": false}',
    b'{"dry\\u005frun": true}',
    b'{"custom_object_record": {}, "dry_run": true}',
    b'{"custom_object_record": {"dry_run": true}}',
    b'{"custom_object": {"dry_run": true}}',
    b'{"custom_object_field": {"dry_run": true}}',
    b'[{"dry_run": true}]',
    b'{"dry__run": true}',
    b'{"dry_run": true, "dry_run": true}',
    b"{'dry_run': true}",
    b"dry_run=true",
    b'Content-Disposition: form-data; name="dry_run"',
    '{"dry_run": true}'.encode("utf-16"),
    b'{"dry_run": true, "more": [' + b"1," * 20_000 + b"1]}",
]
BODIES_OF_A_DELETION = [
    b"",
    b"{}",
    b"null",
    b"[]",
    b'"dry_run"',
    b'{"id": 1, "reason": "not a dry_run"}',
    b'{"custom_object_record": {"custom_object_fields": {"dry_run": true}}}',
    b"\xff\xfe\x00",
    b"{ not JSON",
    b"name=Ford&reason=a dry run",
]


@each(DELETIONS)
@pytest.mark.parametrize("content", BODIES_OF_A_DRY_RUN, ids=lambda content: repr(content[:40]))
async def test_a_dry_run_in_the_body_of_a_deletion_is_refused_and_deletes_nothing(
    api: Api, place: Place, endpoint: Endpoint, content: bytes
) -> None:
    before = await place.state(api)
    url = place.url(endpoint.path)
    for query in (endpoint.query, {**endpoint.query, "dry_run": "true"}):
        response = await api.client.request("DELETE", url, params=query, content=content)
        assert_named(response, "dry_run belongs into the query")
    keyed = {"Idempotency-Key": f"{endpoint} {content!r}"[:255]}
    response = await api.client.request("DELETE", url, params=endpoint.query, content=content, headers=keyed)
    assert_named(response, "dry_run belongs into the query")
    assert await place.state(api) == before


@pytest.mark.parametrize("content", BODIES_OF_A_DELETION, ids=repr)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", ""])
async def test_a_deletion_is_carried_out_whatever_else_its_body_has(
    api: Api, content: bytes, content_type: str
) -> None:
    key = await api.new_object({"key": "dry_run", "type": "checkbox"})
    made = record_of(await api.create(key, name="Ford", external_id="v1"))
    headers = {"Content-Type": content_type} if content_type else {}
    root = f"/custom_objects/{key}"
    await api.create(key, name="Fiat", external_id="v2")
    for path in (f"/records/{made['id']}", "/records?external_id=v2", "/fields/dry_run", ""):
        response = await api.client.request("DELETE", f"{root}{path}", content=content, headers=headers)
        assert response.status_code == 204, response.text


async def test_a_deletion_with_too_large_a_body_is_refused_and_deletes_nothing(
    api: Api, place: Place
) -> None:
    before = await place.state(api)
    url = place.url("/custom_objects/{key}/records/{id}")
    response = await api.client.request("DELETE", url, content=b" " * (256 * 1024 + 1))
    assert response.status_code == 413
    assert await place.state(api) == before


@pytest.mark.parametrize("option", [{"strategy": "merge"}, {"dataOnly": True}, {"data.only": True}])
async def test_a_strategy_beside_the_record_is_refused(api: Api, option: Mapping[str, Any]) -> None:
    key = await api.new_object({"key": "color", "type": "text"})
    made = record_of(await api.create(key, name="Ford", custom_object_fields={"color": "red"}))
    url = f"/custom_objects/{key}/records/{made['id']}"
    for method in ("PUT", "PATCH"):
        response = await api.client.request(
            method, url, json={"custom_object_record": {"name": "Fiat"}, **option}
        )
        assert_named(response, next(iter(option)))
    assert await api.records(key) == [made]


async def test_a_field_may_be_called_as_a_parameter_is(api: Api) -> None:
    key = await api.new_object({"key": "dry_run", "type": "checkbox"}, {"key": "strategy", "type": "text"})
    fields = {"dry_run": True, "strategy": "x"}
    assert (
        record_of(await api.create(key, name="x", custom_object_fields=fields))["custom_object_fields"]
        == fields
    )


@pytest.mark.parametrize("query", [{}, {"strategy": "merge"}, {"strategy": "replace"}, {"dry_run": "true"}])
@pytest.mark.parametrize("is_beside", [False, True])
async def test_a_replacement_with_a_field_one_level_too_high_is_refused_and_clears_nothing(
    api: Api, query: Mapping[str, str], is_beside: bool
) -> None:
    key = await api.new_object({"key": "color", "type": "text"}, {"key": "url", "type": "text"})
    fields = {"color": "red", "url": "x"}
    made = record_of(await api.create(key, name="Ford", external_id="v1", custom_object_fields=fields))
    root = f"/custom_objects/{key}/records"
    body: dict[str, Any] = {"custom_object_record": {"custom_object_fields": {"size": 1}}}
    (body if is_beside else body["custom_object_record"])["color"] = "blue"
    for url, found_by in ((f"{root}/{made['id']}", {}), (root, {"external_id": "v1"})):
        problems = problems_of(await api.client.put(url, params={**found_by, **query}, json=body))
        assert problems["color"] == ["color is a field and belongs into custom_object_fields"]
        assert "size" in problems
    assert await api.records(key) == [made]


BLUE: Mapping[str, Any] = {"color": "blue"}


def in_record(**attributes: Any) -> dict[str, Any]:
    return {"custom_object_record": attributes}


# what holds values, but not those of the record, and its name
MISPLACED = [
    ({**in_record(name="Ford"), "custom_object_fields": BLUE}, "custom_object_fields"),
    ({**in_record(custom_object_fields={}), "data": [BLUE]}, "data"),
    ({**in_record(), "record": {"fields": BLUE}}, "record"),
    ({**in_record(), "photo": BLUE}, "photo"),
    (in_record(name="Ford", fields=BLUE), "fields"),
    (in_record(custom_object_fields={}, fields=BLUE), "fields"),
    (in_record(custom_object_fields=None, fields=BLUE), "fields"),
    (in_record(custom_object_record={"custom_object_fields": BLUE}), "custom_object_record"),
    (in_record(custom_fields=[{"id": 1006, "value": "blue"}]), "custom_fields"),
    (in_record(Custom_Object_Fields=BLUE), "Custom_Object_Fields"),
    (in_record(url=BLUE), "url"),
    (in_record(custom_object_fields={"custom_object_fields": BLUE}), "custom_object_fields"),
    (in_record(custom_object_fields={"name": BLUE}), "name"),
    (in_record(custom_object_fields={"id": [BLUE]}), "id"),
]
# how a field may be called by those who mean it
MISSPELT = [
    "Color", "COLOR", "modelYear", "model-year", "custom_object_fields.color", "custom_object_fields[color]",
    "custom_object_fields[doc][a]", "custom_object_fields_color", "fields/color", "color[]", "doc.a",
    "custom_object.car.custom_fields.color",
]  # fmt: skip
SPELT: list[tuple[dict[str, Any], str]] = [
    *((in_record(**{name: "blue"}), name) for name in MISSPELT),
    *(({**in_record(custom_object_fields={}), name: "blue"}, name) for name in MISSPELT),
    (in_record(name="Ford", **{f"x{n}": 1 for n in range(300)}, color="blue"), "color"),
]


@pytest.fixture(scope="module")
async def painted(api: Api) -> tuple[str, dict[str, Any]]:
    """An object with a record that has values to lose."""
    kinds = {"color": "text", "model_year": "integer", "doc": "json"}
    key = await api.new_object(*({"key": name, "type": kind} for name, kind in kinds.items()))
    fields = {"color": "red", "model_year": 1, "doc": {"a": 1}}
    made = await api.create(key, name="Ford", external_id="v1", custom_object_fields=fields)
    return key, record_of(made)


@pytest.mark.parametrize(("sent", "name"), [*MISPLACED, *SPELT], ids=lambda part: repr(part)[:60])
@pytest.mark.parametrize("query", [{}, {"strategy": "merge"}, {"dry_run": "true"}], ids=str)
async def test_a_replacement_with_its_fields_in_another_place_is_refused_and_clears_nothing(
    api: Api,
    painted: tuple[str, dict[str, Any]],
    sent: Mapping[str, Any],
    name: str,
    query: Mapping[str, str],
) -> None:
    key, made = painted
    root = f"/custom_objects/{key}/records"
    for url, found_by in ((f"{root}/{made['id']}", {}), (root, {"external_id": "v1"})):
        response = await api.client.put(url, params={**found_by, **query}, json=sent)
        assert list(problems_of(response)) == [name]
        (problem,) = response.json()["details"][name]
        assert problem["error"] == "MisplacedField"
        assert "custom_object_fields" in problem["description"]
    assert await api.records(key) == [made]


async def test_a_replacement_with_very_many_misplaced_names_is_refused_briefly(
    api: Api, painted: tuple[str, dict[str, Any]]
) -> None:
    key, made = painted
    url = f"/custom_objects/{key}/records/{made['id']}"
    for value in ([1], 1):
        names = [f"color.{number}{'x' * 200 if number < 100 else ''}" for number in range(9_000)]
        response = await api.client.put(url, json=in_record(**dict.fromkeys(names, value)))
        assert len(problems_of(response)) == 21
        assert len(response.content) < 20_000
    assert await api.records(key) == [made]


@pytest.mark.parametrize(
    "harmless",
    [
        {"trace": "x", "tags": [], "meta": {}, "fields": None, "custom_object_fields": {}, "colour": 1},
        {"colors": "blue", "color2": 1, "x" * 2_000: 1, "Custom_Object_Fields": {}},
    ],
    ids=["beside", "almost"],
)
async def test_what_holds_no_values_is_ignored_by_a_replacement_and_named(
    api: Api, harmless: Mapping[str, Any]
) -> None:
    key = await api.new_object({"key": "color", "type": "text"})
    made = record_of(await api.create(key, name="Ford", custom_object_fields={"color": "red"}))
    url = f"/custom_objects/{key}/records/{made['id']}"
    photo = {"photo": {"id": 1, "sizes": ["small"]}}  # as one that has any is read elsewhere
    fields = {"color": "red", "name": "x", "url": "x", **photo, "custom_object_fields": {}}
    record = {**harmless, **made, **photo, "custom_object_fields": fields}
    response = await api.client.put(url, json={**harmless, **in_record(**record)})
    assert record_of(response) == made
    assert all(name[:200] in response.headers["X-Zendesk-API-Warn"] for name in harmless)


@pytest.mark.parametrize("value", [BLUE, [BLUE]], ids=str)
async def test_fields_within_the_fields_are_refused_by_every_write_of_a_record(api: Api, value: Any) -> None:
    key = await api.new_object({"key": "color", "type": "text"})
    made = record_of(
        await api.create(key, name="Ford", external_id="v1", custom_object_fields={"color": "red"})
    )
    twice = {"name": "Fiat", "custom_object_fields": {"custom_object_fields": value}}
    root = f"/custom_objects/{key}/records"
    for method, url in (
        ("POST", root),
        ("PATCH", f"{root}?external_id=v1"),
        ("PATCH", f"{root}/{made['id']}"),
    ):
        response = await api.client.request(method, url, json={"custom_object_record": twice})
        assert list(problems_of(response)) == ["custom_object_fields"]
        assert response.json()["details"]["custom_object_fields"][0]["error"] == "MisplacedField"
    job = await api.finished_job(key, "update", [{"id": made["id"], **twice}])
    assert [result["status"] for result in job["results"]] == ["Failed"]
    assert await api.records(key) == [made]


async def test_a_field_may_be_called_as_the_fields_are(api: Api) -> None:
    key = await api.new_object({"key": "custom_object_fields", "type": "json"})
    made = record_of(await api.create(key, name="Ford", custom_object_fields={"custom_object_fields": BLUE}))
    assert made["custom_object_fields"] == {"custom_object_fields": BLUE}
    url = f"/custom_objects/{key}/records/{made['id']}"
    response = await api.client.put(url, json={"custom_object_record": made})
    assert response.headers["Upsert-Result"] == "unchanged"


async def test_a_record_may_be_sent_back_where_a_field_is_called_as_its_attributes_are(api: Api) -> None:
    key = await api.new_object({"key": "url", "type": "text"})
    made = record_of(await api.create(key, name="Ford", custom_object_fields={"url": "x"}))
    url = f"/custom_objects/{key}/records/{made['id']}"
    for sent in (made, {**made, "colour": "blue"}):
        response = await api.client.put(url, json={"custom_object_record": sent})
        assert response.headers["Upsert-Result"] == "unchanged"


async def test_what_a_search_or_a_reordering_ignores_of_its_body_is_named(api: Api, place: Place) -> None:
    search = place.url("/custom_objects/{key}/records/search")
    reorder = place.url("/custom_objects/{key}/fields/reorder")
    page, by_name = {"size": 1, "number": None, "total": 3}, {"name": {"$eq": "Ford"}}
    for method, url, sent, ignored in (
        ("POST", search, {"filter": by_name, "page": page, "limit": 5}, ["limit", "page.total"]),
        ("POST", search, {"filter": by_name, "page": {"size": 1}, "sort": "id"}, []),
        ("PUT", reorder, {"field_ids": [], "order": 1}, ["order"]),
        ("PUT", reorder, {"custom_object_field_ids": [], "field_ids": [7]}, ["field_ids"]),
        ("PUT", reorder, {"custom_object_field_ids": []}, []),
    ):
        response = await api.client.request(method, url, json=sent)
        assert response.status_code == 200, response.text
        names = ", ".join(f'"{name}"' for name in ignored)
        told = f"Removed restricted keys [{names}] from parameters" if ignored else None
        assert response.headers.get("X-Zendesk-API-Warn") == told


# Lists

CHOOSING = [
    "external_id=VIN-2",
    "external_id=nobody",
    "name=Ada",
    "externalId=x",
    "filter[external_id]=VIN-2",
    "filter[name]=Ada",
    "filter=VIN-2",
    "filters[external_ids]=VIN-2",
    "filter.external_ids=VIN-2",
    "filter_external_ids=VIN-2",
    "filter[external_ids][]=VIN-2",
    "Filter[external_ids]=VIN-2",
    "amp;filter[external_ids]=VIN-2",
    "external_ids=VIN-2",
    "externalIds=VIN-2",
    "ids=x",
    "ids[]=x",
]


@pytest.mark.parametrize("asked", CHOOSING)
@pytest.mark.parametrize("path", ["", "/count", "/search?query=ford", "/autocomplete"])
async def test_a_list_is_refused_that_would_answer_more_than_was_asked(
    api: Api, place: Place, path: str, asked: str
) -> None:
    if (path, asked[:5]) == ("/autocomplete", "name="):
        return
    url = f"/custom_objects/{place.key}/records{path}"
    response = await api.client.get(f"{url}{'&' if '?' in path else '?'}{asked}")
    assert_named(response, asked.partition("=")[0])
    assert re.search(r"filter\[external_ids\]|/search", response.json()["description"])
    missing = await api.client.get(f"{url.replace(place.key, 'nowhere')}{'&' if '?' in path else '?'}{asked}")
    assert missing.status_code == 404


@pytest.fixture(scope="module")
async def people(api: Api) -> tuple[str, Mapping[str, str]]:
    """An object of records that are called as their external_ids are, and their ids."""
    key = await api.new_object()
    names = ("VIN-1", "VIN-2", "Smith, J", "Smith")
    made = [record_of(await api.create(key, name=name, external_id=name)) for name in names]
    return key, {record["name"]: record["id"] for record in made}


ALL = ["VIN-1", "VIN-2", "Smith, J", "Smith"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"filter[ids]": "", "filter[external_ids]": "VIN-1"}, ["VIN-1"]),
        ({"filter[external_ids]": ""}, ALL),
        ({"filter[external_ids]": ","}, ALL),
        ({"filter[external_ids]": " , "}, ALL),
        ({"filter[external_ids]": "VIN-1, VIN-2"}, ["VIN-1", "VIN-2"]),
        ({"filter[external_ids]": " VIN-1 ,,\tVIN-2 "}, ["VIN-1", "VIN-2"]),
        ({"filter[external_ids]": "nobody"}, []),
        ({"filter[ids]": "{VIN-1}, {VIN-2}"}, ["VIN-1", "VIN-2"]),
        ({"filter[ids]": "{VIN-1}", "filter[external_ids]": "VIN-2"}, []),
        ({"filter[ids]": "{VIN-1}", "filter[external_ids]": "VIN-1, VIN-2"}, ["VIN-1"]),
    ],
)
async def test_a_list_and_its_count_answer_what_the_filters_name(
    api: Api, people: tuple[str, Mapping[str, str]], asked: Mapping[str, str], found: list[str]
) -> None:
    key, ids = people
    query = {name: value.format_map(ids) for name, value in asked.items()}
    root = f"/custom_objects/{key}/records"
    page = (await api.client.get(root, params=query)).json()
    assert [record["name"] for record in page["custom_object_records"]] == found
    count = (await api.client.get(f"{root}/count", params=query)).json()["count"]
    assert count["value"] == len(found)
    every = {"filter": {"name": {"$exists": True}}}
    page = (await api.client.post(f"{root}/search", params=query, json=every)).json()
    assert [record["name"] for record in page["custom_object_records"]] == found


async def test_an_external_id_with_a_comma_is_found_by_the_search(
    api: Api, people: tuple[str, Mapping[str, str]]
) -> None:
    key, _ = people
    wanted = {"filter": {"external_id": {"$in": ["Smith, J"]}}}
    page = (await api.client.post(f"/custom_objects/{key}/records/search", json=wanted)).json()
    assert [record["name"] for record in page["custom_object_records"]] == ["Smith, J"]


@pytest.mark.parametrize("name", ["filter[ids]", "filter[external_ids]"])
@pytest.mark.parametrize("path", ["", "/count", "/autocomplete"])
async def test_a_filter_that_is_given_twice_is_refused(api: Api, place: Place, path: str, name: str) -> None:
    url = f"/custom_objects/{place.key}/records{path}"
    assert_named(await api.client.get(f"{url}?{name}=a&{name}=b"), name)


async def test_a_count_of_too_many_is_refused_and_of_a_missing_object_not_found(
    api: Api, place: Place
) -> None:
    many = "filter[ids]=" + "x," * 101
    response = await api.client.get(f"/custom_objects/{place.key}/records/count?{many}")
    assert (response.status_code, response.json()["error"]) == (400, "TooManyValues")
    assert (await api.client.get(f"/custom_objects/nowhere/records/count?{many}")).status_code == 404


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"page": {"number": 2}}, "page.number"),
        ({"page": {"size": 1, "cursor": "C"}}, "page.cursor"),
        ({"page": {"After": "C"}}, "page.After"),
        ({"page": {"offset": 100}}, "page.offset"),
        ({"after": "C"}, "after"),
        ({"cursor": "C"}, "cursor"),
        ({"before": "C"}, "before"),
        ({"offset": 100}, "offset"),
        ({"page[after]": "C"}, "page[after]"),
    ],
)
async def test_a_search_whose_body_would_go_on_in_another_way_is_refused(
    api: Api, place: Place, more: Mapping[str, Any], named: str
) -> None:
    body = {"filter": {"name": {"$exists": True}}, **more}
    response = await api.client.post(f"/custom_objects/{place.key}/records/search", json=body)
    assert_named(response, f"{named} is not taken in the body: lists go on with page.after")


@pytest.mark.parametrize(
    "name", ["filter[external_ids]", "filter[ids]", "external_ids", "ids", "external_id", "name"]
)
async def test_a_search_whose_body_would_choose_beside_its_filter_is_refused(
    api: Api, place: Place, name: str
) -> None:
    body = {"filter": {"name": {"$exists": True}}, name: "VIN-2"}
    url = f"/custom_objects/{place.key}/records/search"
    response = await api.client.post(url, json=body)
    assert_named(response, f"{name} is not taken in the body: what is asked for stands in filter")
    ignored = {
        "filter": {"name": {"$exists": True}},
        "locale": "en",
        "page": {"x": 1},
        name: None,
        "after": "",
    }
    assert (await api.client.post(url, json=ignored)).status_code == 200
