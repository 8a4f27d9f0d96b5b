import pytest
from limits import RateLimitItem
from pydantic import ValidationError

from upsert_svc.accounts.rate_limits import _SWEEP_AT, RateLimits, Windows
from upsert_svc.accounts.tokens import Principal
from upsert_svc.settings import Settings


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rate(text: str) -> RateLimitItem:
    item = Settings(rate_limit_account=text).rate_limit_account
    assert item is not None
    return item


def caller(account_id: int = 1, token_id: int = 1) -> Principal:
    return Principal(account_id, 1, "admin@example.com", "admin", token_id)


def test_a_window_begins_with_its_first_request_and_starts_anew_when_it_is_over() -> None:
    clock = Clock()
    limits = RateLimits(rate("2/minute"), None, clock)

    first = limits.count(caller())
    clock.now += 20.5
    second, third = limits.count(caller()), limits.count(caller())
    clock.now += 39.4
    fourth = limits.count(caller())
    clock.now += fourth.reset_seconds
    fifth = limits.count(caller())

    assert first == ("account", 2, 1, 60, False)
    assert second == ("account", 2, 0, 40, False)
    assert third == ("account", 2, 0, 40, True)
    assert fourth == ("account", 2, 0, 1, True)  # 0.1 s, which are no whole number but 1
    assert fifth == first


def test_refused_requests_do_not_put_off_the_end_of_the_window() -> None:
    clock = Clock()
    limits = RateLimits(rate("1/10 seconds"), None, clock)
    limits.count(caller())

    for _ in range(9):
        clock.now += 1
        assert limits.count(caller()).is_exceeded
    clock.now += 1

    assert not limits.count(caller()).is_exceeded


def test_the_limit_that_has_the_least_left_is_told() -> None:
    limits = RateLimits(rate("5/minute"), rate("3/second"), Clock())

    counted = [limits.count(caller(token_id=token_id))[:3] for token_id in (1, 1, 2, 2, 3)]

    assert counted == [
        ("token", 3, 2),
        ("token", 3, 1),
        ("token", 3, 2),
        ("token", 3, 1),
        ("account", 5, 0),
    ]


def test_what_a_tokens_limit_refuses_takes_nothing_from_the_account() -> None:
    limits = RateLimits(rate("3/minute"), rate("1/minute"), Clock())

    runaway = [limits.count(caller(token_id=1)).is_exceeded for _ in range(10)]
    others = [limits.count(caller(token_id=token_id)).is_exceeded for token_id in (2, 3, 4)]

    assert runaway == [False] + [True] * 9
    assert others == [False, False, True]


def test_tokens_of_two_accounts_that_have_one_number_are_two() -> None:
    limits = RateLimits(None, rate("1/minute"), Clock())

    assert not limits.count(caller(account_id=1, token_id=7)).is_exceeded
    assert not limits.count(caller(account_id=2, token_id=7)).is_exceeded
    assert limits.count(caller(account_id=1, token_id=7)).is_exceeded


def test_windows_that_are_over_are_forgotten() -> None:
    clock = Clock()
    windows = Windows(clock)
    windows.incr("open", 10_000)

    for number in range(5 * _SWEEP_AT):
        clock.now += 1
        windows.incr(str(number), 10)

    assert windows.get("open") == 1
    assert windows.reset() <= _SWEEP_AT


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [
        ("700/minute", 700, 60),
        ("5 per 10 seconds", 5, 10),
        ("1000000/Hour", 1_000_000, 3600),
        ("9/2days", 9, 172_800),
    ],
)
def test_a_rate_is_requests_per_time(text: str, amount: int, seconds: int) -> None:
    assert (rate(text).amount, rate(text).get_expiry()) == (amount, seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "700",
        "0/minute",
        "5/0 minutes",
        "-1/minute",
        "5/fortnight",
        "5/minute;1/second",
        "٣/minute",
        "1.5/minute",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="such as 700/minute"):
        Settings(rate_limit_token=text)
