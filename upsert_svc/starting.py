"""How the application starts under uvicorn: what keeps it from that is raised, and logged by nobody."""

import asyncio
from typing import Any

from uvicorn.lifespan.on import LifespanOn


class Lifespan(LifespanOn):
    """The life of the application, whose failure to start leaves `startup` as it was raised."""

    _failure: Exception | None = None

    async def startup(self) -> None:
        """Raises whatever kept the application from starting."""
        self._life = asyncio.create_task(self.main())
        await self.receive_queue.put({"type": "lifespan.startup"})
        await self.startup_event.wait()
        if self._failure is not None:
            raise self._failure

    async def main(self) -> None:
        asgi = {"version": self.config.asgi_version, "spec_version": "2.0"}
        scope = {"type": "lifespan", "asgi": asgi, "state": self.state}
        try:
            await self.config.loaded_app(scope, self.receive, self.send)
        except Exception as error:
            if not self.startup_event.is_set():
                self._failure = error
        finally:
            self.startup_event.set()
            self.shutdown_event.set()

    async def send(self, message: Any) -> None:
        """Passes by the traceback that Starlette makes of a failure; what it raises next says more."""
        if message["type"] != "lifespan.startup.failed":
            await super().send(message)
