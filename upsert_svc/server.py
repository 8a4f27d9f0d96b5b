"""Runs the application under uvicorn: the sockets, the loop and the workers."""

import contextlib
import errno
import logging
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from upsert_svc.http.limits import BACKLOG
from upsert_svc.http.protocol import BoundedHttp
from upsert_svc.mistakes import Mistake, line_of
from upsert_svc.stopping import GracefulServer, StoppingConfig


def options(*, shutdown_timeout_seconds: int) -> dict[str, Any]:
    """What the service asks of uvicorn, beside an application and an address."""
    return {
        "loop": "uvloop",
        "http": BoundedHttp,
        "backlog": BACKLOG,
        "ws": "none",
        "access_log": False,
        "log_config": None,  # that of `logs`
        "server_header": False,
        "proxy_headers": False,
        "log_level": "warning",
        "timeout_graceful_shutdown": shutdown_timeout_seconds,
    }


_ELSEWHERE = "Choose another address with --host or --port."
_ADVICE = {
    errno.EADDRINUSE: "Another process listens there: end it, or choose another port with --port.",
    errno.EACCES: "Ports below 1024 are for root: choose another one with --port.",
}
_log = logging.getLogger(__name__)


class AddressTaken(Mistake):
    """The service cannot listen where it was told to; the message says why, and what to do."""


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets at all addresses of a host, taken and not yet listened at. Raises AddressTaken.

    So nothing is started, migrated or said before the port is ours, and nobody is let in before all is ready.
    """
    sockets: list[socket.socket] = []
    try:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in dict.fromkeys(found):
                sockets.append(one := socket.socket(family, kind, protocol))
                _bind(one, address, port or sockets[0].getsockname()[1])
        except UnicodeError:
            raise AddressTaken(
                f"Cannot listen at {_printable(host)} port {port}: no host can have such a name. {_ELSEWHERE}"
            ) from None
        except OSError as error:
            raise _address_taken(_printable(host), port, error) from error
        yield sockets
    finally:
        for one in sockets:
            one.close()


def _bind(one: socket.socket, address: Any, port: int) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart would wait for a minute
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the other family has a socket of its own
    one.bind((address[0], port, *address[2:]))


def _printable(host: str) -> str:
    """The name of a host as a terminal may show it."""
    return host if host.isprintable() else host.encode("unicode_escape").decode()


def listen(sockets: Sequence[socket.socket]) -> None:
    """Lets callers in. Raises AddressTaken when another process listens there since."""
    for one in sockets:
        host, port, *_ = one.getsockname()
        try:
            one.listen(BACKLOG)
        except OSError as error:
            raise _address_taken(host, port, error) from error


def _address_taken(host: str, port: int, error: OSError) -> AddressTaken:
    reason = (error.strerror or str(error)).lower()
    return AddressTaken(
        f"Cannot listen at {host} port {port}: {reason}. {_ADVICE.get(error.errno or 0, _ELSEWHERE)}"
    )


class _Worker(multiprocess.Process):
    """A worker process; it stops as a server alone does. What kept it from starting it tells its parent."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        self._told, self._telling = Pipe(duplex=False)
        super().__init__(config, sockets)

    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = GracefulServer(self.config)
        return self._server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves in the process itself. One that cannot start must not be replaced: it ends as such."""
        try:
            super().target(sockets)
        except Exception as error:
            if self.server.started:
                raise
            if (line := line_of(error)) is None:
                _log.exception("a worker cannot start")
            self._telling.send(line)
            sys.exit(STARTUP_FAILURE)

    def failure(self) -> str | None:
        """What the operator is to know of a failed start; None where a traceback was logged."""
        told: str | None = self._told.recv() if self._told.poll() else None
        return told


class _Server(GracefulServer):
    """A server without workers, which says when it has started."""

    def __init__(self, config: StoppingConfig, when_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_started = when_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._when_started()


class _Supervisor(multiprocess.Multiprocess):
    """Keeps worker processes alive, and ends them; says when all of them have started."""

    def __init__(
        self, config: StoppingConfig, sockets: list[socket.socket], when_started: Callable[[], None]
    ) -> None:
        super().__init__(config, sockets)
        self._when_started: Callable[[], None] | None = when_started

    def keep_subprocess_alive(self) -> None:
        for number, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if not worker.is_alive(timeout=self.config.timeout_worker_healthcheck):
                self._replace(number, worker)
        if self._when_started is not None and all(worker.is_ready() for worker in self.processes):
            self._when_started()
            self._when_started = None

    def _replace(self, number: int, ended: multiprocess.Process) -> None:
        """Puts another worker in the place of one that has ended or hangs. One that cannot start ends all."""
        ended.kill()
        ended.join()
        if ended.exitcode == STARTUP_FAILURE:
            self.should_exit.set()
            return
        started = self.processes[number] = multiprocess.Process(self.config, self.sockets)
        started.start()
        what = "the worker %d ended (%s); %d takes its place"
        _log.warning(what, ended.pid, ended.exitcode, started.pid)

    def raise_failure(self) -> None:
        """Raises what kept a worker from starting, as a Mistake; ends with 1 where that is in the log."""
        failed = [worker for worker in self.processes if worker.exitcode == STARTUP_FAILURE]
        lines = [line for worker in failed if isinstance(worker, _Worker) and (line := worker.failure())]
        if lines:
            raise Mistake(lines[0])
        if failed:
            sys.exit(1)

    def terminate_all(self) -> None:
        for each in self.sockets:  # or what connects when all workers have closed theirs waits for nobody
            each.close()
        super().terminate_all()


def run(
    sockets: Sequence[socket.socket],
    *,
    workers: int,
    when_started: Callable[[], None],
    delay_seconds: float,
    shutdown_timeout_seconds: int,
) -> None:
    """Serves until a signal; each worker makes the application anew, from the environment.

    Raises what keeps the application from starting, of workers as a Mistake.
    """
    config = StoppingConfig(
        "upsert_svc.workers:create" if workers > 1 else "upsert_svc.app:serving",
        factory=True,
        workers=workers,
        delay_seconds=delay_seconds,
        **options(shutdown_timeout_seconds=shutdown_timeout_seconds),
    )
    if workers > 1:
        multiprocess.Process = _Worker  # type: ignore[misc]  # what the supervisor makes its workers of
        supervisor = _Supervisor(config, list(sockets), when_started)
        supervisor.run()
        supervisor.raise_failure()
        return
    server = _Server(config, when_started)
    # a signal may come before it begins
    warnings.filterwarnings("ignore", "coroutine 'Server.serve' was never awaited", RuntimeWarning)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(list(sockets))
