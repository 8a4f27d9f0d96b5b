"""POST …/records/create_or_update_many: upserts a record a line, and answers a line for each.

The lines are answered while others still come. The request as a whole is refused only before its first line
is read; from then on each line is refused by itself.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from upsert_svc import json_body
from upsert_svc.api import responses
from upsert_svc.api.rate_limits import Allowance
from upsert_svc.api.request_body import announces_lines
from upsert_svc.api.request_lines import BrokenOff, Line, lines
from upsert_svc.api.requests import Call
from upsert_svc.asgi import AT_ONCE
from upsert_svc.errors import BadRequest, RequestTimeout, ServiceError, TooManyValues
from upsert_svc.payloads import RecordPatch, record_line, require_no_parameter
from upsert_svc.records.rules import require_unique_names
from upsert_svc.records.values import By, Identifier
from upsert_svc.records.write_streams import Outcome, StreamRequest, WriteStream

RECORDS_LIMIT = 1000  # of a body that is one JSON document
_LIST = "custom_object_records"
_STREAM_BYTES = 4 << 20  # of memory: what is under way as text, as values, and as answers
_SENT_BYTES = 16 << 10  # of answers that leave together, where they are known already
_BY: Mapping[str, By] = {"external_id": "external_id", "name": "name"}

Tell = Callable[[int, Outcome], dict[str, Any]]  # the place of a record and what became of it: the answer


async def create_or_update_many(call: Call) -> Response:
    """Judges the request as a whole; what follows is judged record by record."""
    request, tell = _asked(call)
    if announces_lines(call.headers):
        await _require_findable(call, request)
        call.hold_until_sent(await call.service.memory.bulk.take(call.principal.account_id, _STREAM_BYTES))
        return _StreamedAnswer(call, _stream(call, request), tell)
    records = _listed(await call.json())
    await _require_findable(call, request)
    return await _answered_at_once(call, request, records, tell)


def _asked(call: Call) -> tuple[StreamRequest, Tell]:
    if b"idempotency-key" in call.headers:
        raise BadRequest("Idempotency-Key is not taken here: each record can be sent again as it is")
    by = _BY.get(call.query.once("by"))
    if by is None:
        raise BadRequest("by is needed in the query: external_id or name")
    returned = call.query.once("return")
    if returned not in ("", "record"):
        raise BadRequest("return must be record")
    request = StreamRequest(call.principal, call.path("key"), by, call.query.flag("dry_run"))
    return request, _telling(call, has_record=bool(returned))


async def _require_findable(call: Call, request: StreamRequest) -> None:
    """Raises RecordNotFound without the object, RecordInvalid where no name finds a record of it."""
    definition = await call.service.definitions.current(call.principal.account_id, request.object_key)
    require_unique_names(definition, Identifier(request.by, ""))


def _stream(call: Call, request: StreamRequest) -> WriteStream:
    service = call.service
    return WriteStream(request, service.records, service.definitions, service.write_batcher)


def _telling(call: Call, *, has_record: bool) -> Tell:
    def tell(index: int, outcome: Outcome) -> dict[str, Any]:
        if isinstance(outcome, ServiceError):
            retry = {"retry_after": int(seconds)} if (seconds := outcome.headers.get("Retry-After")) else {}
            return {"index": index, "status": outcome.status, **outcome.body(), **retry}
        record = outcome.record
        told: dict[str, Any] = {
            "index": index,
            "status": 200,
            "result": outcome.outcome,
            "id": record.record_id,
            "external_id": record.external_id,
            "name": record.name,
        }
        if outcome.ignored:
            told["ignored"] = outcome.ignored
        if has_record:
            told["record"] = responses.record(call, record)
        return told

    return tell


class _Totals:
    """How many records there were, and what became of them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        self._counts["refused" if isinstance(outcome, ServiceError) else outcome.outcome] += 1

    @property
    def count(self) -> int:
        return self._counts.total()

    def told(self) -> dict[str, int]:
        names = ("created", "updated", "unchanged", "refused")
        return {"total": self.count, **{name: self._counts[name] for name in names}}


# One JSON document


async def _answered_at_once(
    call: Call, request: StreamRequest, records: Sequence[Any], tell: Tell
) -> Response:
    stream, totals = _stream(call, request), _Totals()
    async with asyncio.TaskGroup() as group:
        group.create_task(_put_all(stream, records, Allowance(call.scope)))
        results = []
        async for outcome in stream.outcomes():
            results.append(tell(totals.count, outcome))
            totals.add(outcome)
    return responses.JsonResponse({"results": results, **totals.told()})


def _listed(body: Any) -> Sequence[Any]:
    if not isinstance(body, dict) or not isinstance(body.get(_LIST), list):
        raise BadRequest(f"The body must be a JSON object with the key {_LIST}, a list of records")
    require_no_parameter(body)
    records: list[Any] = body[_LIST]
    if len(records) > RECORDS_LIMIT:
        raise TooManyValues(_LIST, RECORDS_LIMIT)
    return records


async def _put_all(stream: WriteStream, records: Sequence[Any], allowance: Allowance) -> None:
    for record in records:
        await stream.put(_patch_of(record, allowance), 0)
    stream.complete()


def _patch_of(record: Any, allowance: Allowance) -> RecordPatch | ServiceError:
    """What a record says, or why it is refused."""
    try:
        allowance.take()
        return record_line(record)
    except ServiceError as error:
        return error


# A line a record


class _StreamedAnswer(Response):
    """The answer to a stream: its lines come while those of the request are still read."""

    def __init__(self, call: Call, stream: WriteStream, tell: Tell) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = [(b"content-type", b"application/x-ndjson"), (b"x-accel-buffering", b"no")]
        self._call = call
        self._stream = stream
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (hand_on_at_once := scope.get("extensions", {}).get(AT_ONCE)) is not None:
            hand_on_at_once()
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # the head leaves at once: some callers wait for it before they send a line
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        reading = asyncio.create_task(self._read(receive))
        try:
            await self._answer(send, reading)
        finally:
            reading.cancel()
            self._stream.abandon()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _read(self, receive: Receive) -> BrokenOff | RequestTimeout | None:
        """Puts what comes into the stream; why it did not come to its end, if it did not."""
        settings, allowance = self._call.service.settings, Allowance(self._call.scope)
        try:
            async for found in lines(
                receive, limit_bytes=settings.body_limit_bytes, idle_seconds=settings.body_timeout_seconds
            ):
                for line in found:
                    if isinstance(line, bytes):
                        await self._call.turn(line)
                    await self._stream.put(*_read_line(line, allowance))
        except (BrokenOff, RequestTimeout) as ended:
            return ended
        finally:
            self._stream.complete()
        return None

    async def _answer(self, send: Send, reading: "asyncio.Task[BrokenOff | RequestTimeout | None]") -> None:
        totals, told = _Totals(), bytearray()
        async for outcome in self._stream.outcomes():
            told += responses.json_line(self._tell(totals.count, outcome))
            totals.add(outcome)
            if len(told) >= _SENT_BYTES or not self._stream.is_next_known:
                await send({"type": "http.response.body", "body": bytes(told), "more_body": True})
                told.clear()
        match await reading:
            case None:
                told += responses.json_line(totals.told())
            case RequestTimeout() as late:
                told += responses.json_line(self._tell(totals.count, late))
        await send({"type": "http.response.body", "body": bytes(told)})


def _read_line(line: Line, allowance: Allowance) -> tuple[RecordPatch | ServiceError, int]:
    """What a line says, or why it is refused, and its size in bytes."""
    if isinstance(line, ServiceError):
        return line, 0
    try:
        allowance.take()
        return record_line(json_body.parse(line)), len(line)
    except ServiceError as error:
        return error, len(line)
