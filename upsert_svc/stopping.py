"""How the server stops: whoever was taken is answered, everybody else can turn to another in time."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import uvicorn

from upsert_svc.http.protocol import close_after_answers, traffic_of
from upsert_svc.starting import Lifespan

_TICK_SECONDS = 0.1
_LINGER_SECONDS = 0.5
_SILENCE_SECONDS = 3.0
_REFUSAL_SECONDS = 2.0


class Application(Protocol):
    """What the server tells the application that it serves, when it is to stop."""

    def begin_stop(self) -> None:
        """No longer ready; requests are answered as before."""

    async def refuse_waiting(self) -> None:
        """Whatever still waits is refused now, and what begins from now on."""


class GracefulServer(uvicorn.Server):
    """Stops without cutting off anybody whose request was taken.

    After SIGTERM it serves on for the delay of `config`, told as not ready and each answer the last of its
    connection, so that load balancers turn to others. Then it accepts no more and ends what is under way;
    what waits at the end of its time is told 503.
    """

    config: "StoppingConfig"

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        application: Application = self.config.loaded_app
        application.begin_stop()
        delay_seconds = 0 if self._is_interrupted() else self.config.delay_seconds
        await self._serve_on(delay_seconds)
        await self._accept_no_more(sockets or ())
        await self._hear_out(delay_seconds)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._has_ended(self.config.timeout_graceful_shutdown or 0):
            await application.refuse_waiting()
            if not await self._has_ended(_REFUSAL_SECONDS):
                await self._cut_off()
        traffic_of(self.server_state).end()
        if not self.force_exit:
            await self.lifespan.shutdown()

    def _is_interrupted(self) -> bool:
        """Whether somebody at the keyboard waits for the end."""
        return signal.SIGINT in self._captured_signals

    async def _serve_on(self, seconds: float) -> None:
        close_after_answers(self.server_state)
        for tick in range(round(seconds / _TICK_SECONDS)):
            await self.on_tick(tick)
            await asyncio.sleep(_TICK_SECONDS)

    async def _hear_out(self, delay_seconds: float) -> None:
        """Waits for the requests of those who have connected, and a moment for those who are known."""
        if not delay_seconds:
            return
        await self._has_ended(min(_LINGER_SECONDS, delay_seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_SECONDS):
                while traffic_of(self.server_state).silent:  # noqa: ASYNC110 (nor this)
                    await asyncio.sleep(_TICK_SECONDS)

    async def _accept_no_more(self, sockets: Sequence[socket.socket]) -> None:
        """Takes over whoever has connected, and closes the sockets that others would connect to."""
        listening = [each.dup() for each in sockets]
        for server in self.servers:
            server.close()
        for each in sockets:
            each.close()
        # at once after the last one was taken: whoever connects in between would be cut off
        accepted = [connection for each in listening for connection in _taken_over(each)]
        loop = asyncio.get_running_loop()
        for connection in accepted:
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Any:
        protocol: Any = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def _has_ended(self, seconds: float) -> bool:
        """Whether all that is under way has ended within a time."""
        try:
            async with asyncio.timeout(seconds):
                while self._is_busy():  # noqa: ASYNC110 (uvicorn tells nobody)
                    await asyncio.sleep(_TICK_SECONDS / 4)
        except TimeoutError:
            return False
        return True

    def _is_busy(self) -> bool:
        return not self.force_exit and bool(self.server_state.connections or self.server_state.tasks)

    async def _cut_off(self) -> None:
        """Gives up who does not take an answer, and tells the rest 503."""
        for connection in list(self.server_state.connections):
            connection.give_up()  # type: ignore[union-attr]
        for task in self.server_state.tasks:
            task.cancel()
        await self._has_ended(_REFUSAL_SECONDS)


def _taken_over(listening: socket.socket) -> list[socket.socket]:
    """The connections that nobody has accepted yet; closes the socket that they came to."""
    connections = []
    with listening:
        listening.setblocking(False)
        with contextlib.suppress(OSError):  # there are no more
            while True:
                connections.append(listening.accept()[0])
    for connection in connections:
        connection.setblocking(False)
    return connections


class StoppingConfig(uvicorn.Config):
    """uvicorn's configuration, and how long to serve on after a signal to stop."""

    def __init__(self, app: Any, *, delay_seconds: float, **options: Any) -> None:
        super().__init__(app, **options)
        self.delay_seconds = delay_seconds

    def load(self) -> None:
        super().load()
        self.lifespan_class = Lifespan
