"""The counts of all connections by themselves: whose turn it is to go, and when."""

import asyncio
from dataclasses import dataclass

import pytest

from upsert_svc.http import traffic
from upsert_svc.http.limits import Limits
from upsert_svc.http.traffic import Admission, Traffic, UnsentAnswers, ticks

MEGABYTE = 1 << 20


@dataclass(eq=False)
class Client:
    """A connection whose client takes its answer at some rate."""

    size: int
    bytes_a_tick: int = 0
    is_cut_off: bool = False
    is_told: bool = False
    is_closed: bool = False

    def untaken_bytes(self) -> int:
        return self.size

    def held_bytes(self) -> int:
        return self.size

    def on_tick(self, _tick: int) -> None:
        self.size -= min(self.size, self.bytes_a_tick)

    def hang_up(self) -> None:
        raise AssertionError

    def cut_off(self) -> None:
        self.is_cut_off = True

    def go_on(self) -> None:
        raise AssertionError

    def refuse(self) -> None:
        self.is_told = True

    def refuse_and_close(self) -> None:
        self.is_closed = True


def ticks_until_cut_off(unsent: UnsentAnswers, client: Client) -> int | None:
    """None where it takes all before."""
    unsent.watch(client, 0)
    for tick in range(1, 10_000):
        client.on_tick(tick)
        unsent.on_tick(tick)
        if client.is_cut_off:
            return tick
        if not client.size:
            unsent.forget(client)
            return None
    raise AssertionError("it goes on for ever")


def test_who_takes_nothing_is_cut_off_after_the_timeout() -> None:
    assert ticks_until_cut_off(UnsentAnswers(10), Client(MEGABYTE)) == ticks(10)


def test_who_takes_an_answer_drop_by_drop_is_cut_off_after_a_time_that_fits_its_size() -> None:
    for size in (MEGABYTE, 4 * MEGABYTE):
        ended = ticks_until_cut_off(UnsentAnswers(10), Client(size, bytes_a_tick=100))
        assert ended == ticks(10) + size / traffic.LEAST_BYTES_PER_SECOND / traffic.TICK_SECONDS


def test_who_takes_an_answer_at_the_least_rate_gets_all_of_it() -> None:
    rate = round(traffic.LEAST_BYTES_PER_SECOND * traffic.TICK_SECONDS)
    assert ticks_until_cut_off(UnsentAnswers(10), Client(20 * MEGABYTE, bytes_a_tick=rate)) is None


def test_where_all_hold_too_much_whoever_has_not_moved_for_longest_goes_first() -> None:
    unsent, still, moving, late = (
        UnsentAnswers(10),
        Client(MEGABYTE),
        Client(30 * MEGABYTE, 100),
        Client(MEGABYTE),
    )
    for client in (still, moving):
        unsent.watch(client, 0)
    moving.on_tick(1)
    unsent.on_tick(1)
    unsent.watch(late, 1)
    assert not any(client.is_cut_off for client in (still, moving, late))
    unsent.watch(Client(MEGABYTE), 2)
    assert [client.is_cut_off for client in (still, moving, late)] == [True, False, False]


def admitted(admission: Admission, credential: int, count: int) -> int:
    """How many of so many requests are admitted."""
    return sum(admission.admit(credential) is not None for _ in range(count))


def good(limit: int, *credentials: int) -> Admission:
    admission = Admission(limit)
    for credential in credentials:
        admission.trust(credential)
    return admission


def test_one_credential_gets_half_of_the_requests_and_leaves_the_rest_to_others() -> None:
    admission = good(100, 1, 2)
    assert admitted(admission, 1, 200) == 50
    assert admitted(admission, 2, 200) == 34
    assert admitted(admission, 3, 200) == 16
    assert admitted(admission, 2, 1) == 0


def test_a_share_that_is_given_back_goes_to_who_has_less() -> None:
    admission = good(100, 1, 2)
    assert admitted(admission, 1, 200) == 50
    for _ in range(40):
        admission.release(1)
    assert admitted(admission, 2, 200) == 40
    assert admitted(admission, 1, 200) == 24


@pytest.mark.parametrize("credentials", [range(1, 200), [0] * 199])
def test_credentials_that_are_not_known_are_one(credentials: list[int]) -> None:
    admission = good(100, 1000)
    assert sum(admission.admit(credential) is not None for credential in credentials) == 50
    assert admitted(admission, 1000, 10) == 10


def test_a_credential_that_is_good_no_more_has_no_share_of_its_own() -> None:
    admission = good(100, 1)
    assert admission.admit(1) == 1
    admission.distrust(1)
    assert admission.admit(1) == 0
    admission.release(1)
    admission.release(0)


def test_only_so_many_credentials_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_KNOWN_CREDENTIALS", 3)
    admission = good(100, *range(1, 6))
    assert [admission.admit(credential) for credential in range(1, 6)] == [0, 0, 3, 4, 5]


async def test_refused_callers_are_told_a_few_at_a_time_and_all_within_a_second() -> None:
    counts, told = Traffic(Limits(), asyncio.get_running_loop(), set()), list[int]()
    clients = [Client(0) for _ in range(traffic.REFUSALS_AT_A_TICK * 6)]
    for client in clients:
        counts.refuse_soon(client)
    for _ in range(traffic.REFUSAL_TICKS):
        counts.on_tick()
        told.append(sum(client.is_told for client in clients))
    each = traffic.REFUSALS_AT_A_TICK
    assert told == [each, 2 * each, 3 * each, 6 * each]
    assert traffic.REFUSAL_TICKS * traffic.TICK_SECONDS <= 1


async def test_who_is_still_to_be_told_of_a_refusal_makes_room_for_another_connection() -> None:
    client, other = Client(0), Client(0)
    counts = Traffic(Limits(connections=1), asyncio.get_running_loop(), {client})
    assert not counts.has_room()
    for refused in (client, other):
        counts.refuse_soon(refused)
    counts.forget_refused(other)
    assert counts.has_room()
    assert client.is_closed
    assert not counts.has_room()
    assert not other.is_closed
