"""Rate limits of accounts and of tokens, counted in this process over fixed windows.

A caller over a limit learns for how long; a limit that is not set costs nothing.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from limits import RateLimitItem
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from upsert_svc.accounts.tokens import Principal

_SWEEP_AT = 1000


class Windows(Storage):
    """The windows that are open: each counts the requests since its first, until its end.

    The library's own storage in memory looks at every window at every request, or starts a thread a hundred
    times a second; here the closed ones go when as many more have been opened. The clock never goes back.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._ends: dict[str, float] = {}
        self._sweep_at = _SWEEP_AT

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """What may go wrong with the storage itself: nothing."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Counts into the window, opened for `expiry` seconds if none is open; answers its count."""
        if not self._is_open(key):
            self._sweep()
            self._counts[key], self._ends[key] = 0, self._clock() + expiry
        self._counts[key] += amount
        return self._counts[key]

    def get(self, key: str) -> int:
        """The count of the window that is open."""
        return self._counts[key] if self._is_open(key) else 0

    def get_expiry(self, key: str) -> float:
        """When the window ends, by the clock."""
        return self._ends.get(key, self._clock())

    def check(self) -> bool:
        """Whether the storage can be reached."""
        return True

    def reset(self) -> int:
        """Closes all windows; answers how many those were."""
        count = len(self._counts)
        self._counts.clear()
        self._ends.clear()
        return count

    def clear(self, key: str) -> None:
        """Closes a window."""
        self._counts.pop(key, None)
        self._ends.pop(key, None)

    def _is_open(self, key: str) -> bool:
        return key in self._ends and self._ends[key] > self._clock()

    def _sweep(self) -> None:
        """Forgets closed windows, so rarely that all of it costs no more than opening them did."""
        if len(self._ends) >= self._sweep_at:
            for key in [key for key in self._ends if not self._is_open(key)]:
                self.clear(key)
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._ends))


class Standing(NamedTuple):
    """How a caller stands with the limit that is nearest: requests, and the seconds until it starts anew."""

    of: str
    limit: int
    remaining: int
    reset_seconds: int
    is_exceeded: bool


class RateLimits:
    """The limits that are set, one at least."""

    def __init__(
        self,
        account: RateLimitItem | None,
        token: RateLimitItem | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = account
        self._token = token
        self._clock = clock
        self._windows = FixedWindowRateLimiter(Windows(clock))

    def count(self, principal: Principal) -> Standing:
        """Counts a request; how the caller stands with the limit that has the least left.

        The token's comes first: what it refuses takes nothing from the account's other tokens.
        """
        account = str(principal.account_id)
        standings: list[Standing] = []
        if self._token is not None:
            standings.append(self._count(self._token, "token", account, str(principal.token_id)))
        if self._account is not None and not (standings and standings[0].is_exceeded):
            standings.append(self._count(self._account, "account", account))
        return min(standings, key=lambda standing: (not standing.is_exceeded, standing.remaining))

    def _count(self, item: RateLimitItem, of: str, *identifiers: str) -> Standing:
        is_taken = self._windows.hit(item, of, *identifiers)
        end, remaining = self._windows.get_window_stats(item, of, *identifiers)
        reset_seconds = max(math.ceil(end - self._clock()), 1)
        return Standing(of, item.amount, remaining, reset_seconds, not is_taken)
