"""What a story reports: one line of JSON a step, with what the client gave back or how it failed."""

import json
import os
from collections.abc import Callable
from typing import Any

URL = os.environ["SERVICE_URL"]
LIMITED_URL = os.environ["SERVICE_LIMITED_URL"]  # the same service, which takes few requests a second
EMAIL = os.environ["SERVICE_EMAIL"]
TOKEN = os.environ["SERVICE_TOKEN"]


def step(name: str, do: Callable[[], Any]) -> Any:
    """Does the step and reports what came of it: what it gives back, or the error that the client raised."""
    reported: dict[str, Any] = {"step": name}
    try:
        reported["saw"] = do()
    except Exception as error:
        reported |= {"raised": type(error).__name__, "text": str(error)}
    print(json.dumps(reported, default=_plain), flush=True)
    return reported.get("saw")


def _plain(value: Any) -> Any:
    """What a client made of an answer, as it says it itself."""
    return value.to_dict() if hasattr(value, "to_dict") else str(value)
