"""TLS to the database is what its URL says. The server here is a proxy that does TLS, or does not."""

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from upsert_svc.db.pools import UnreachableDatabase, owner_transaction


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate of localhost, and its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    folder = tmp_path_factory.mktemp("tls")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem"))
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files)
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate.pem"


@contextlib.asynccontextmanager
async def listening(url: str, context: ssl.SSLContext | None) -> AsyncIterator[tuple[str, list[bool]]]:
    """The URL of a server that hands on to another, and whether each connection had TLS."""
    (directory,) = parse_qs(urlsplit(url).query)["host"]
    used: list[bool] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(8)
            is_asked = first[4:] == (80877103).to_bytes(4)
            if is_asked:
                writer.write(b"S" if context else b"N")
                first = b""
            if is_asked and context:
                await writer.start_tls(context)
            used.append(writer.get_extra_info("ssl_object") is not None)
            there, thither = await asyncio.open_unix_connection(f"{directory}/.s.PGSQL.5432")
            thither.write(first)
            await asyncio.gather(pump(reader, thither), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = re.findall("//(.*)@", url)[0]
    try:
        yield f"postgresql://{login}@localhost:{port}/upsert_svc", used
    finally:
        server.close()


async def connects(url: str) -> None:
    async with owner_transaction(url) as connection:
        assert await connection.fetchval("select 1") == 1


async def test_the_mode_of_tls_in_a_url_is_obeyed(elsewhere: str, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    async with listening(elsewhere, context) as (url, used):
        for parameters in (
            "sslmode=require",
            f"sslmode=verify-ca&sslrootcert={certificate}",
            f"sslmode=verify-full&sslrootcert={certificate}",
        ):
            await connects(f"{url}?{parameters}")
        assert used == [True] * 3
        await connects(f"{url}?sslmode=disable")
        assert used == [True] * 3 + [False]
        with pytest.raises(UnreachableDatabase, match=r"(?i)certificate"):  # of nobody who is trusted
            await connects(f"{url}?ssl=true")
        other_name = url.replace("@localhost", "@127.0.0.1")
        await connects(f"{other_name}?sslmode=verify-ca&sslrootcert={certificate}")
        with pytest.raises(UnreachableDatabase, match=r"(?i)certificate"):
            await connects(f"{other_name}?sslmode=verify-full&sslrootcert={certificate}")


@pytest.mark.parametrize("parameters", ["sslmode=require", "sslmode=verify-full&sslrootcert={}", "ssl=true"])
async def test_a_server_without_tls_is_not_connected_to_where_the_url_asks_for_it(
    elsewhere: str, certificate: Path, parameters: str
) -> None:
    async with listening(elsewhere, None) as (url, used):
        with pytest.raises(UnreachableDatabase, match="SSL"):
            await connects(f"{url}?{parameters.format(certificate)}")
        await connects(f"{url}?sslmode=prefer")
        assert not any(used)
