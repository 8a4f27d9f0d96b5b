"""An address of the database at which an answer can be lost on its way."""

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

_IDLE = b"Z\x00\x00\x00\x05I"  # ReadyForQuery outside of a transaction: what was asked for is committed


@dataclass
class LossyAddress:
    """Passes everything on, until it is to lose an answer; then the connection is lost with it."""

    url: str
    is_committed: asyncio.Event = field(default_factory=asyncio.Event)
    keeps_what_ended: bool = False  # the caller hears of the database's end of a connection only by `part`
    _may_part: asyncio.Event = field(default_factory=asyncio.Event)
    _hangs: bool = False
    _goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    _marker: bytes | None = None
    _ending: bytes = b""

    def lose_the_answer_to(self, marker: str, *, ending: str = "") -> None:
        """The next statement with these words in its arguments is committed and never answered.

        With an ending it is answered, but what comes later on its connection with those words is not.
        """
        self._marker, self._ending = marker.encode(), ending.encode()

    def hang(self) -> None:
        """Takes what is sent, and passes nothing on, until it goes on."""
        self._hangs = True
        self._goes_on.clear()

    def go_on(self) -> None:
        self._hangs = False
        self._goes_on.set()

    async def going_on(self) -> None:
        if self._hangs:
            await self._goes_on.wait()

    def part(self) -> None:
        """Lets go of the connection whose answer was lost."""
        self._may_part.set()

    async def part_allowed(self) -> None:
        await self._may_part.wait()

    def is_marked(self, data: bytes) -> bool:
        if self._marker is None or self._marker not in data:
            return False
        self._marker = None
        return True

    def is_ended(self, data: bytes) -> bool:
        return self._ending in data

    async def lose(self, answer: bytes) -> bool:
        """Whether this was the end of the answer."""
        if not answer.endswith(_IDLE):
            return False
        self.is_committed.set()
        await self.part_allowed()
        return True


@contextlib.asynccontextmanager
async def lossy_address(database_url: str) -> AsyncIterator[LossyAddress]:
    """Another address of the database on a Unix socket."""
    host, port = re.findall(r"[?&](?:host|port)=([^&]+)", database_url)
    name = f".s.PGSQL.{port}"
    with tempfile.TemporaryDirectory(prefix="cut-") as folder:
        line = LossyAddress(database_url.replace(f"host={host}", f"host={folder}"))
        passing: set[asyncio.Task[None]] = set()

        async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            passing.add(task)
            await _pass(line, reader, writer, f"{host}/{name}")
            passing.discard(task)

        server = await asyncio.start_unix_server(opened, f"{folder}/{name}")
        try:
            yield line
        finally:
            server.close()
            line.part()
            line.go_on()
            await asyncio.wait_for(asyncio.gather(*passing), 5)


async def _pass(
    line: LossyAddress, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str
) -> None:
    target_reader, target_writer = await asyncio.open_unix_connection(target)
    is_marked = is_doomed = False

    async def there() -> None:
        nonlocal is_marked, is_doomed
        while data := await reader.read(1 << 16):
            is_marked = is_marked or line.is_marked(data)
            is_doomed = is_doomed or (is_marked and line.is_ended(data))
            await line.going_on()
            target_writer.write(data)

    async def back() -> None:
        answer = b""
        while data := await target_reader.read(1 << 16):
            await line.going_on()
            if not is_doomed:
                writer.write(data)
            elif await line.lose(answer := answer + data):
                return
        if line.keeps_what_ended:
            await line.part_allowed()

    ways = [asyncio.create_task(there()), asyncio.create_task(back())]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    for end in (writer, target_writer):
        end.close()
        with contextlib.suppress(OSError):
            await end.wait_closed()
