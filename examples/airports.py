"""`make demo`: the airports of the world, loaded through the import, changed and loaded again.

Starts a service of its own in a temporary directory, and fails unless each run does exactly what it must.
"""

import contextlib
import csv
import http.client
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

OBJECT_KEY = "airport"
KEY_COLUMN = "icao"
EDITS = 100
_START_SECONDS, _STOP_SECONDS, _ANSWER_SECONDS = 300, 60, 30
_COLUMNS: Mapping[str, str] = {
    "iata": "text",
    "city": "text",
    "subdivision": "text",
    "country": "dropdown",
    "elevation_ft": "integer",
    "latitude": "decimal",
    "longitude": "decimal",
    "timezone": "text",
    "has_iata": "checkbox",
}

Airport = Mapping[str, Any]
Row = dict[str, str]


class DemoFailed(Exception):
    """Something did not come out as it must."""


def fields(airports: Sequence[Airport]) -> list[dict[str, Any]]:
    """The fields of the object, as the API takes them; the countries' options are those of the data."""
    countries = sorted({airport["country"] for airport in airports})
    made = [{"key": key, "type": kind, "title": key.replace("_", " ")} for key, kind in _COLUMNS.items()]
    options = [{"name": country, "value": country} for country in countries]
    return [
        field | {"custom_field_options": options} if field["type"] == "dropdown" else field for field in made
    ]


def row(airport: Airport) -> Row:
    """An airport as a row of the CSV file; what is not known is empty."""
    return {
        KEY_COLUMN: airport["icao"],
        "name": airport["name"],
        "iata": airport["iata"],
        "city": airport["city"],
        "subdivision": airport["subd"],
        "country": airport["country"],
        "elevation_ft": str(round(airport["elevation"])),
        "latitude": str(airport["lat"]),
        "longitude": str(airport["lon"]),
        "timezone": airport["tz"],
        "has_iata": "yes" if airport["iata"] else "no",
    }


def edited(rows: Sequence[Row], edits: int = EDITS) -> list[Row]:
    """The rows with that many of them changed, spread over the file."""
    step = len(rows) // edits
    chosen = {number * step for number in range(edits)}
    return [
        item | {"elevation_ft": str(int(item["elevation_ft"]) + 1)} if number in chosen else item
        for number, item in enumerate(rows)
    ]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class _Api:
    """A service of this machine: its port, an admin's token, its process id."""

    port: int
    token: str = field(repr=False)
    pid: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of an answer. Raises OSError or HTTPException when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, orjson.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return response.status, response.read()


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[_Api]:
    """A service with data of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_urlsafe(32)
    environment = os.environ | {
        "UPSERT_SVC_DATA_DIR": str(folder / "data"),
        "UPSERT_SVC_BOOTSTRAP_EMAIL": "demo@example.com",
        "UPSERT_SVC_BOOTSTRAP_TOKEN": token,
    }
    environment.pop("UPSERT_SVC_DATABASE_URL", None)
    command = [sys.executable, "-m", "upsert_svc", "serve", "--port", str(port), "--workers", "1"]
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603
    try:
        api = _Api(port, token, process.pid)
        _await_ready(api, process, folder / "service.log")
        yield api
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)


def _await_ready(api: _Api, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if api.call("GET", "/readyz")[0] == http.client.OK:
                return
        time.sleep(0.1)
    raise DemoFailed(f"The service did not start:\n{log.read_text(errors='replace')}")


def _define(api: _Api, airports: Sequence[Airport]) -> None:
    body = {"key": OBJECT_KEY, "title": "Airport", "title_pluralized": "Airports"}
    _post(api, "/custom_objects", {"custom_object": body})
    for made in fields(airports):
        _post(api, f"/custom_objects/{OBJECT_KEY}/fields", {"custom_object_field": made})


def _post(api: _Api, path: str, body: Mapping[str, Any]) -> None:
    status, answer = api.call("POST", f"/api/v2{path}", body)
    if status != http.client.CREATED:
        raise DemoFailed(f"POST {path}: {status} {answer.decode(errors='replace')}")


def _import(api: _Api, title: str, path: Path, expected: Mapping[str, int]) -> None:
    """Runs the import; fails unless all rows became what is expected of them, and the count is right."""
    command = [sys.executable, "-m", "upsert_svc", "import", OBJECT_KEY, str(path), "--key", KEY_COLUMN]
    environment = os.environ | {"UPSERT_SVC_URL": api.address, "UPSERT_SVC_TOKEN": api.token}
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
    print(f"{title}: {process.stdout.strip()}", flush=True)
    counts = ", ".join(
        f"{expected.get(key, 0)} {key}" for key in ("created", "updated", "unchanged", "refused")
    )
    if process.returncode != 0 or counts not in process.stdout:
        raise DemoFailed(f"Expected {counts} and exit code 0, which was {process.returncode}")
    total = sum(expected.values())
    _, answer = api.call("GET", f"/api/v2/custom_objects/{OBJECT_KEY}/records/count")
    counted = orjson.loads(answer)["count"]["value"]
    if counted != total:
        raise DemoFailed(f"The service counts {counted} records instead of {total}")


def _resident_megabytes(pid: int) -> float:
    """What the kernel says where that is a file, as on Linux, which may have no `ps`; else `ps`."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        kilobytes = re.findall(r"^VmRSS:\s*(\d+) kB$", status.read_text(), re.MULTILINE)[0]
    else:
        command = ["/bin/ps", "-o", "rss=", "-p", str(pid)]
        kilobytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return int(kilobytes) / 1024


def demonstrate() -> None:
    """The whole demo. Raises DemoFailed."""
    import airportsdata

    airports = list(airportsdata.load().values())
    rows = [row(airport) for airport in airports]
    total = len(rows)
    print(f"{total} airports of airportsdata {version('airportsdata')}")
    with tempfile.TemporaryDirectory(prefix="upsert-svc-airports-") as name, _service(Path(name)) as api:
        write_csv(path := Path(name) / "airports.csv", rows)
        write_csv(changed := Path(name) / "airports-edited.csv", edited(rows))
        _define(api, airports)
        _import(api, "First run", path, {"created": total})
        _import(api, "The same file again", path, {"unchanged": total})
        edits = {"updated": EDITS, "unchanged": total - EDITS}
        _import(api, f"{EDITS} rows edited", changed, edits)
        print(f"The service counts {total} records; its process holds {_resident_megabytes(api.pid):.0f} MB")


def main() -> None:
    """Runs the demo; exits with 1 when anything is not as expected."""
    try:
        demonstrate()
    except DemoFailed as error:
        sys.exit(f"The demo failed: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"The demo needs the extra `demo`: {error}")


if __name__ == "__main__":
    main()
