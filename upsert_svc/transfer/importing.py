"""`upsert-svc import`: sends the rows of a file to a running service over HTTP, each as an upsert.

Rows of one key are sent one after the other, in the file's order. What is settled is noted beside the file,
so that an import that was interrupted goes on there. Raises TransferFailed for what it cannot work with.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import uvloop

from upsert_svc.transfer.cells import Kinds, columns_by_type
from upsert_svc.transfer.client import (
    RATE_LIMITED,
    WAITS,
    Request,
    ServiceClient,
    Target,
    TransferFailed,
    bounded_wait,
    connected,
    naming_of,
    retry_after_seconds,
)
from upsert_svc.transfer.files import lock, spelled
from upsert_svc.transfer.import_ledger import OUTCOMES, Files, Ledger, kept_state
from upsert_svc.transfer.import_rows import RowRefused, Source, TargetDefinition, Upsert, is_utf8
from upsert_svc.transfer.import_sending import Outcome, Sending, Sent

REQUESTS = 4  # under way at a time: some are written while others are on their way
ROWS_AHEAD = 16  # of the first unsettled one, beside what is sent and what is sent next
ROWS_EACH = 8  # of a request, for each row at a time that is asked for
_ROW_REFUSALS = frozenset({400, 413, 414, 422, 431})
_NOT_TAKEN = frozenset({404, 405})  # what a service says that does not take many rows in one request


@dataclass(frozen=True)
class Options:
    """What the command line says. `kinds` tells how cells hold the values of each field type; `key` names the
    column that identifies a record.

    A row is the whole record where `is_replacing`, else what of it is to change.
    """

    target: Target
    kinds: Kinds
    path: Path
    key: str
    concurrency: int = 32
    refused_path: Path | None = None
    is_replacing: bool = False

    @property
    def files(self) -> Files:
        return Files(self.path, self.refused_path or self.path.with_name(f"{self.path.name}.refused.ndjson"))


@dataclass(frozen=True)
class Summary:
    """What became of the rows of the file; how many of them this run sent, in how many seconds."""

    counts: Mapping[str, int]
    sent: int
    seconds: float

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        rate = self.sent / max(self.seconds, 0.001)
        return f"{sum(self.counts.values())} rows: {counts} in {self.seconds:.1f} s ({rate:.0f} rows/s)"


# The service


class ImportTarget:
    """The service as the import needs it: one object's definition, and upserts of its records."""

    def __init__(self, client: ServiceClient, options: Options) -> None:
        self._client = client
        self._object_key = options.target.object_key
        self._key = options.key
        self._kinds = options.kinds
        self._method = "PUT" if options.is_replacing else "PATCH"
        parameter = "name" if options.key == "name" else "external_id"
        self._upsert_url = f"{client.object_url}/records?{parameter}="
        self._many_url = f"{client.object_url}/records/create_or_update_many?by={parameter}"
        self._takes_many = not options.is_replacing
        self._singles = max(options.concurrency // REQUESTS, 1)  # at a time, of each of the requests

    async def definition(self) -> TargetDefinition:
        """What the object's rows are made by. Raises TransferFailed, soon if no service answers."""
        fields = await self._client.fields()
        naming = naming_of(fields)
        if self._key == "name" and not naming.get("is_unique"):
            raise TransferFailed(f"--key name needs unique names, and those of {self._object_key} are not")
        columns = columns_by_type(fields, self._kinds)
        is_numbered = bool(naming.get("autoincrement_enabled"))
        self._takes_many &= not (is_numbered and self._key == "name")  # whose lines must not have the name
        return TargetDefinition(self._object_key, self._key, columns, is_numbered)

    async def send(self, rows: Sequence[Sent]) -> Sequence[Outcome]:
        """What became of each row: created, updated, unchanged, or why it was refused. Raises TransferFailed.

        Where nothing comes of sending them together the first goes alone: patiently, and with a clear word
        on what is wrong.
        """
        outcomes: dict[int, Outcome] = {}
        left = list(range(len(rows)))
        waits = 0
        while left:
            found: Mapping[int, Outcome] = {}
            wait_seconds = 0.0
            if self._takes_many and len(left) > 1:
                found, wait_seconds = await self._sent_together([rows[place] for place in left])
            if wait_seconds and not found and waits < WAITS:
                waits += 1
                await asyncio.sleep(wait_seconds)
                continue
            if not found:
                at_a_time = 1 if self._takes_many else self._singles
                found = await self._sent_one_by_one([rows[place] for place in left[:at_a_time]])
            outcomes |= {left[place]: outcome for place, outcome in found.items()}
            left = [place for place in left if place not in outcomes]
            waits = 0
        return [outcomes[place] for place in range(len(rows))]

    async def _sent_together(self, rows: Sequence[Sent]) -> tuple[Mapping[int, Outcome], float]:
        """What became of those rows, by their places, of which the service had a word to say.

        And for how many seconds a rate limit has the others wait.
        """
        body = b"\n".join(upsert.record for _, upsert in rows)
        request = Request("POST", self._many_url, body, f"the lines from {rows[0][0]} on")
        answer = await self._client.lines(request)
        if answer is None:
            return {}, 0
        if not answer.is_success:
            self._takes_many = answer.status not in _NOT_TAKEN
            return {}, retry_after_seconds(answer) if answer.status == RATE_LIMITED else 0
        outcomes: dict[int, Outcome] = {}
        wait_seconds = 0.0
        for line in _lines(answer.content, len(rows)):
            if (outcome := _outcome_of(line)) is not None:
                outcomes[line["index"]] = outcome
            elif line["status"] == RATE_LIMITED:
                wait_seconds = _wished_seconds(line)
        return outcomes, wait_seconds

    async def _sent_one_by_one(self, rows: Sequence[Sent]) -> Mapping[int, Outcome]:
        """What became of each row, each a request of its own."""
        return dict(enumerate(await asyncio.gather(*(self._upsert(*row) for row in rows))))

    async def _upsert(self, line: int, upsert: Upsert) -> Outcome:
        url = self._upsert_url + quote(upsert.identifier, safe="")
        body = b'{"custom_object_record":%b}' % upsert.record
        request = Request(self._method, url, body, f"line {line}")
        answer = await self._client.answer(request, also_taken=_ROW_REFUSALS)
        if answer.status in _ROW_REFUSALS:
            return _refused(answer.error, answer.status, str(answer))
        outcome = answer.headers.get("Upsert-Result", "")
        if outcome not in OUTCOMES:
            raise TransferFailed(f"The service took line {line} but did not say Upsert-Result")
        return outcome


def _lines(content: bytes, count: int) -> Iterator[Mapping[str, Any]]:
    """The lines of an answer that tell of one of so many rows: not the totals, nor one that was cut off."""
    for text in content.split(b"\n"):
        with contextlib.suppress(ValueError):
            line = orjson.loads(text)
            if isinstance(line, dict) and type(line.get("status")) is int:
                place = line.get("index")
                if type(place) is int and 0 <= place < count:
                    yield line


def _wished_seconds(line: Mapping[str, Any]) -> float:
    """For how many seconds a row is to wait that was told 429."""
    seconds = line.get("retry_after")
    return bounded_wait(seconds) if isinstance(seconds, int | float) else 1.0


def _outcome_of(line: Mapping[str, Any]) -> Outcome | None:
    """What a line of the answer says; None for what may be otherwise when it is sent again."""
    status = line["status"]
    if status == 200 and line.get("result") in OUTCOMES:
        return str(line["result"])
    if status in _ROW_REFUSALS:
        return _refused(line, status, f"{status} {line.get('description') or line.get('error')}")
    return None


def _refused(error: Mapping[str, Any], status: int, text: str) -> RowRefused:
    """The refusal of a row: the sentences of the error's details, else the text."""
    details: Any = error.get("details")
    try:
        reasons = {key: [problem["description"] for problem in problems] for key, problems in details.items()}
        words = {str(problem.get("error")) for problems in details.values() for problem in problems}
    except (KeyError, TypeError, AttributeError):
        reasons, words = {}, set()
    is_for_missing = status == 422 and words == {"RecordNotFound"}
    return RowRefused(reasons or {"base": [text]}, status, is_for_missing=is_for_missing)


# The import


def run(options: Options) -> Summary:
    """Imports the file; answers what became of its rows. Raises TransferFailed."""
    if not options.key.strip():
        raise TransferFailed("--key must name a column")
    if not is_utf8(options.key):
        raise TransferFailed("--key must name a column, in UTF-8")
    try:
        with options.path.open("rb") as file:
            lock(file, f"{options.path} is being imported already")
            options.files.check()
            return uvloop.run(_import(file, options))
    except OSError as error:
        raise TransferFailed(f"{error.filename or options.path}: {error.strerror or error}") from None


def _source(file: BufferedReader, options: Options) -> dict[str, Any]:
    """What a state holds for; when any of it differs, the import begins anew."""
    status = os.fstat(file.fileno())
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "object": options.target.object_key,
        "key": options.key,
        "replace": options.is_replacing,
        "url": options.target.url,
        "refused": spelled(options.files.refused.absolute()),
    }


async def _import(file: BufferedReader, options: Options) -> Summary:
    started = time.monotonic()
    async with connected(options.target, connections=options.concurrency) as client:
        service = ImportTarget(client, options)
        definition = await service.definition()
        state = kept_state(_source(file, options), options.files)
        source = Source(file, options.path, definition)
        keeps_order = options.concurrency == 1
        requests, rows = (1, 1) if keeps_order else (REQUESTS, options.concurrency * ROWS_EACH)
        with Ledger(options.files, state, rows_ahead=2 * requests * rows + ROWS_AHEAD) as ledger:
            sending = Sending(service.send, ledger, requests=requests, rows=rows, retries=options.concurrency)
            waiting = [source.row(position) for position in state.waiting_positions]
            await sending.send_all(waiting, source.rows(state.position))
            ledger.publish()
    sent = sum(ledger.counts.values()) - sum(state.counts.values())
    return Summary(ledger.counts, sent, time.monotonic() - started)
