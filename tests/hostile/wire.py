"""Requests written byte by byte."""

import asyncio
from dataclasses import dataclass

from tests.support.harness import Running


@dataclass(frozen=True)
class Wire:
    """A hand that writes bytes to the service, for what no HTTP client would send."""

    running: Running
    token: str

    def head(self, method: str, path: str, *headers: bytes | str) -> bytes:
        """A request line and headers, with a Host and a good credential."""
        lines: list[bytes | str] = [
            f"{method} {path} HTTP/1.1",
            "Host: wire.example.com",
            f"Authorization: Bearer {self.token}",
            *headers,
            "",
            "",
        ]
        return b"\r\n".join(line.encode() if isinstance(line, str) else line for line in lines)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.running.address.removeprefix("http://").split(":")
        return await asyncio.open_connection(host, int(port))

    async def exchange(self, sent: bytes, seconds: float = 5) -> tuple[int, bytes]:
        """The status and the rest of the answer to these bytes; 0 where the service hangs up instead."""
        reader, writer = await self.connect()
        try:
            writer.write(sent)
            async with asyncio.timeout(seconds):
                return await answer(reader)
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status, the headers and body of the next answer."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        return int(head.split(b" ", 2)[1]), head + await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b""
