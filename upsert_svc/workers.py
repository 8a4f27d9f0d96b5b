"""One of several processes that answer: it holds the embedded server, and ends with who started it.

Without that a killed supervisor would leave workers that keep the port, and nobody to stop or replace them.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from typing import IO

from upsert_svc import app
from upsert_svc.api.middleware import Middleware
from upsert_svc.db import embedded

ORPHAN_SECONDS = 2.0  # to answer what is under way; the port is free before
_held: list[IO[bytes] | None] = []  # for as long as the process lives


def create() -> Middleware:
    """The application of a worker."""
    _held.append(embedded.hold())
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    return app.serving()


def _end_with(parent: int) -> None:
    """Waits until the parent has ended, then has this process stop, and ends it if it does not."""
    multiprocessing.connection.wait([parent])
    os.kill(os.getpid(), signal.SIGINT)  # and nobody waits for it to be told as not ready
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)
