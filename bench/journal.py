"""What the load sent and was answered: noted cheaply while it runs, judged when it is over."""

import math
import random
from array import array
from collections import Counter


class Journal:
    """The answered requests in the order of their answers, in columns; times are of one clock, in seconds.

    A key of 0 is no write: a read, or a request that was to be refused.
    """

    def __init__(self) -> None:
        self._keys = array("q")
        self._values = array("q")
        self._due = array("d")
        self._sent = array("d")
        self._ended = array("d")
        self._doubtful: set[int] = set()
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def note(self, key: int, value: int, due: float, sent: float, ended: float) -> None:
        """A request was answered as expected."""
        self._keys.append(key)
        self._values.append(value)
        self._due.append(due)
        self._sent.append(sent)
        self._ended.append(ended)

    def fail(self, key: int, what: str) -> None:
        """A request went wrong: whether its value stands is not known."""
        self.errors[what] += 1
        self._doubtful.add(key)

    def ended_within(self, begun: float, over: float) -> list[float]:
        """The milliseconds from sending to answer, of what was answered in that time: a closed loop's."""
        return [
            (ended - sent) * 1000
            for sent, ended in zip(self._sent, self._ended, strict=True)
            if begun <= ended < over
        ]

    def due_within(self, begun: float, over: float) -> list[float]:
        """The milliseconds from when it was due to the answer, of what was due in that time: an open loop's.

        The wait for a free connection is in them, and so is every stall of the server: what could not be
        sent meanwhile was due all the same.
        """
        return [
            (ended - due) * 1000
            for due, ended in zip(self._due, self._ended, strict=True)
            if begun <= due < over
        ]

    def lateness(self, begun: float, over: float) -> list[float]:
        """The part of those milliseconds that passed before the request was sent."""
        return [
            (sent - due) * 1000
            for due, sent in zip(self._due, self._sent, strict=True)
            if begun <= due < over
        ]

    def standing(self, size: int) -> dict[int, list[int]]:
        """For a sample of keys the values that may stand there now.

        A value was replaced for sure if another one of its key was sent after it had been acknowledged.
        """
        last_sent: dict[int, float] = {}
        for key, sent in zip(self._keys, self._sent, strict=True):
            if sent > last_sent.get(key, -math.inf):
                last_sent[key] = sent
        known = [key for key in last_sent if key and key not in self._doubtful]
        chosen: dict[int, list[int]] = {key: [] for key in random.sample(known, min(size, len(known)))}
        for key, value, ended in zip(self._keys, self._values, self._ended, strict=True):
            if key in chosen and ended >= last_sent[key]:
                chosen[key].append(value)
        return chosen
