"""`upsert-svc import`: sends the rows of a file to a running service over HTTP, each as an upsert.

Rows of one key are sent one after the other, in the file's order. What is settled is noted beside the file,
so that an import that was interrupted goes on there. Raises TransferFailed for what it cannot work with.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvloop

from upsert_svc.transfer.cells import Kinds, columns_by_type
from upsert_svc.transfer.client import (
    Answer,
    Request,
    ServiceClient,
    Target,
    TransferFailed,
    connected,
    naming_of,
)
from upsert_svc.transfer.files import lock, spelled
from upsert_svc.transfer.import_ledger import OUTCOMES, Files, Ledger, kept_state
from upsert_svc.transfer.import_rows import RowRefused, Source, TargetDefinition, Upsert, is_utf8
from upsert_svc.transfer.import_sending import ROWS_AHEAD, Sending

_ROW_REFUSALS = frozenset({400, 413, 414, 422, 431})


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

    async def definition(self) -> TargetDefinition:
        """What the object's rows are made by. Raises TransferFailed, soon if no service answers."""
        fields = await self._client.fields()
        naming = naming_of(fields)
        if self._key == "name" and not naming.get("is_unique"):
            raise TransferFailed(f"--key name needs unique names, and those of {self._object_key} are not")
        columns = columns_by_type(fields, self._kinds)
        is_numbered = bool(naming.get("autoincrement_enabled"))
        return TargetDefinition(self._object_key, self._key, columns, is_numbered)

    async def upsert(self, line: int, upsert: Upsert) -> str | RowRefused:
        """What became of a row: created, updated, unchanged, or why it was refused. Raises TransferFailed."""
        url = self._upsert_url + quote(upsert.identifier, safe="")
        request = Request(self._method, url, upsert.body, f"line {line}")
        answer = await self._client.answer(request, also_taken=_ROW_REFUSALS)
        if answer.status in _ROW_REFUSALS:
            return RowRefused(_reasons(answer), answer.status, is_for_missing=_is_for_missing(answer))
        outcome = answer.headers.get("Upsert-Result", "")
        if outcome not in OUTCOMES:
            raise TransferFailed(f"The service took line {line} but did not say Upsert-Result")
        return outcome


def _reasons(answer: Answer) -> Mapping[str, list[str]]:
    """The sentences of an error's details, else its description."""
    try:
        details = {
            key: [problem["description"] for problem in problems]
            for key, problems in answer.error["details"].items()
        }
    except (KeyError, TypeError, AttributeError):
        details = {}
    return details or {"base": [str(answer)]}


def _is_for_missing(answer: Answer) -> bool:
    """Whether all that is wrong is that lookups name records that do not exist, or not yet."""
    details = answer.error.get("details")
    try:
        errors = (
            {problem["error"] for problems in details.values() for problem in problems} if details else {}
        )
    except (KeyError, TypeError, AttributeError):
        return False
    return answer.status == 422 and errors == {"RecordNotFound"}


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
        with Ledger(options.files, state, rows_ahead=options.concurrency * ROWS_AHEAD) as ledger:
            sending = Sending(service.upsert, ledger, options.concurrency)
            waiting = [source.row(position) for position in state.waiting_positions]
            await sending.send_all(waiting, source.rows(state.position))
            ledger.publish()
    sent = sum(ledger.counts.values()) - sum(state.counts.values())
    return Summary(ledger.counts, sent, time.monotonic() - started)
