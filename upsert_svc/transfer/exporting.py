"""`upsert-svc export`: writes the records of an object, page by page, to a file that `import` takes back.

The file has its name when it is whole, and not before. Raises TransferFailed for what cannot be done.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson
import uvloop
from rich.progress import Progress

from upsert_svc.transfer.cells import Kinds
from upsert_svc.transfer.client import (
    Request,
    ServiceClient,
    Target,
    TransferFailed,
    connected,
    escaped,
    naming_of,
)
from upsert_svc.transfer.export_rows import Format, Lines, columns_of, format_of, is_begun, lines
from upsert_svc.transfer.files import open_part, progress

_PAGE_SIZE = 100


@dataclass(frozen=True)
class Options:
    """What the command line says; `kinds` tells how cells hold the values of each field type.

    Without a path the records go to the standard output.
    """

    target: Target
    kinds: Kinds
    path: Path | None = None
    format: Format | None = None
    filter: str | None = None


@dataclass(frozen=True)
class Summary:
    """What was written, and what of it an import will not find again as it was.

    Where it `is_named` names are unique, so that an import finds records by them.
    """

    records: int
    seconds: float
    emptied: int
    unidentified: int
    is_named: bool = False

    def __str__(self) -> str:
        rate = self.records / max(self.seconds, 0.001)
        return f"{self.records} records in {self.seconds:.1f} s ({rate:.0f} records/s)"

    @property
    def warnings(self) -> list[str]:
        """Sentences for the operator."""
        unidentified = "records have no external_id, by which an import would find them"
        if self.is_named:
            unidentified = (
                "records have no external_id; import the file with --key name, which finds them too"
            )
        said = {
            "empty texts became empty cells, as nulls do; NDJSON keeps them apart": self.emptied,
            unidentified: self.unidentified,
        }
        return [f"{count} {words}" for words, count in said.items() if count]


def run(options: Options) -> Summary:
    """Exports the records; answers how many. Raises TransferFailed."""
    chosen = options.format or format_of(options.path)
    search = _search(options.filter)
    try:
        with _output(options.path) as file:
            return uvloop.run(_export(file, options, chosen, search))
    except BrokenPipeError:
        _discard_output()
        raise TransferFailed("The standard output was closed before the end") from None
    except OSError as error:
        if options.path is None:
            _discard_output()
        where = error.filename or options.path or "The standard output"
        raise TransferFailed(f"{where}: {error.strerror or error}") from None


def _discard_output() -> None:
    """Drops what is still in the buffer of the standard output: at the exit it would fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Where the lines go: a partial file, which takes its name in the end, or is removed if that fails."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(os.path.realpath(path))  # so that a link stays one
    if path.exists() and not path.is_file():
        raise TransferFailed(f"{path} is not a file; without --output the records go to the standard output")
    if not target.parent.is_dir():
        raise TransferFailed(f"{path}: No such file or directory")
    part = target.with_name(f"{target.name}.part")
    with open_part(part, is_begun) as file:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


async def _export(file: BinaryIO, options: Options, chosen: Format, search: bytes | None) -> Summary:
    started = time.monotonic()
    async with connected(options.target, connections=1) as client:
        fields = await client.fields()
        made = lines(chosen, columns_of(fields, options.kinds, options.target.object_key))
        file.write(made.header())
        records, unidentified = await _write_all(file, made, client, search, options)
    is_named = bool(naming_of(fields).get("is_unique"))
    return Summary(records, time.monotonic() - started, made.emptied, unidentified, is_named)


async def _write_all(
    file: BinaryIO, made: Lines, client: ServiceClient, search: bytes | None, options: Options
) -> tuple[int, int]:
    """Writes page after page; answers how many records there were, and how many without external_id."""
    records = unidentified = 0
    total = await client.count() if search is None else None
    with _progress(options) as bar:
        task = bar.add_task(escaped(options.target.object_key), total=total, rows=0)
        async with contextlib.aclosing(
            client.pages(_listing(client, search), "custom_object_records")
        ) as pages:
            async for page in pages:
                file.write(made.of(page))
                records += len(page)
                unidentified += sum(record["external_id"] is None for record in page)
                bar.update(task, completed=records, rows=records)
    return records, unidentified


def _progress(options: Options) -> Progress:
    """A bar, but not among the records on a terminal."""
    bar = progress()
    bar.disable = bar.disable or (options.path is None and sys.stdout.isatty())
    return bar


def _listing(client: ServiceClient, search: bytes | None) -> Request:
    """All records by id, or those that a search finds."""
    url = f"{client.object_url}/records"
    if search is None:
        return Request("GET", f"{url}?page%5Bsize%5D={_PAGE_SIZE}", None, "the records")
    return Request("POST", f"{url}/search?page%5Bsize%5D={_PAGE_SIZE}", search, "the search")


def _search(text: str | None) -> bytes | None:
    """The body of a search by the filter; None without one. Raises TransferFailed."""
    if text is None:
        return None
    try:
        if isinstance(orjson.loads(text), dict):
            return orjson.dumps({"filter": orjson.Fragment(text)})
    except ValueError:
        pass
    raise TransferFailed("--filter is not a JSON object")
