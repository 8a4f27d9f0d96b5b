"""Dates and times as they are read: RFC 3339 and the shorter forms, alike on every Python."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsert_svc.definitions.times import read_date, read_moment

OFFSETS = st.builds(
    timezone, st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(
        lambda offset: timedelta(minutes=offset // timedelta(minutes=1))
    )
)  # fmt: skip
# Far enough from the first and the last year that no offset leads out of them.
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=OFFSETS)


@pytest.mark.parametrize(
    ("text", "day", "moment"),
    [
        ("2026-02-03", "2026-02-03", "2026-02-03T00:00:00"),
        ("2026-02-03T09:10:11Z", "2026-02-03", "2026-02-03T09:10:11"),
        ("2026-02-03t09:10:11z", "2026-02-03", "2026-02-03T09:10:11"),
        ("2026-02-03 09:10:11", "2026-02-03", "2026-02-03T09:10:11"),
        ("2026-02-03 09:10:11 +0000", "2026-02-03", "2026-02-03T09:10:11"),
        ("2026-02-03T23:59:59-05:00", "2026-02-03", "2026-02-04T04:59:59"),
        ("2026-02-03T23:59:59-0530", "2026-02-03", "2026-02-04T05:29:59"),
        ("2026-02-03T00:00:00+01", "2026-02-03", "2026-02-02T23:00:00"),
        ("2026-02-03T00:00:00+00:00:30", "2026-02-03", "2026-02-02T23:59:30"),
        ("2026-02-03T09", "2026-02-03", "2026-02-03T09:00:00"),
        ("2026-02-03T09:10-00:00", "2026-02-03", "2026-02-03T09:10:00"),
        ("2026-02-03T09:10:11.5Z", "2026-02-03", "2026-02-03T09:10:11.500000"),
        ("2026-02-03T09:10:11,25", "2026-02-03", "2026-02-03T09:10:11.250000"),
        ("2026-02-03T09.5", "2026-02-03", "2026-02-03T09:30:00"),
        ("2026-02-03T09:10,5", "2026-02-03", "2026-02-03T09:10:30"),
        ("2026-02-03T09:10:11+01.5", "2026-02-03", "2026-02-03T07:40:11"),
        (f"2026-02-03T09:10:11.{'1' * 9000}Z", "2026-02-03", "2026-02-03T09:10:11.111111"),
        (f"2026-02-03T09:10:11.{'0' * 9000}Z", "2026-02-03", "2026-02-03T09:10:11"),
        ("2026-02-03T09:10:11.00000000000001Z", "2026-02-03", "2026-02-03T09:10:11.000001"),
        ("2026-02-03T23:59:60Z", "2026-02-03", "2026-02-04T00:00:00"),
        ("2026-02-03T23:59:60.25", "2026-02-03", "2026-02-04T00:00:00.250000"),
        ("1990-12-31T15:59:60-08:00", "1990-12-31", "1991-01-01T00:00:00"),
        ("1991-01-01T05:29:60+0530", "1991-01-01", "1991-01-01T00:00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01", "0001-01-01T00:00:00"),
        ("9999-12-31T23:59:59Z", "9999-12-31", "9999-12-31T23:59:59"),
    ],
)
def test_a_date_time_is_read_as_rfc_3339_and_shorter_forms_have_it(text: str, day: str, moment: str) -> None:
    assert read_date(text) == day
    assert read_moment(text) == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-02-03T", "2026-02-03 ", " 2026-02-03", "2026-02-03\n", "2026-2-3", "26-02-03",
        "+2026-02-03",
        "2026-02-30", "2026-13-01", "0000-01-01", "٢٠٢٦-٠٢-٠٣", "\uff12026-02-03", "2026-02-03T٠٩:10Z",
        "20260203", "2026-034", "2026-W06", "2026-W06-2", "2026W062", "20260203T091011Z", "2026-W06-2T09:10Z",
        "2026-02-03T0910", "2026-02-03T091011Z", "2026-02-03T09:1011", "2026-02-03x09:10",
        "2026-02-03T24:00", "2026-02-03T24:00:00Z", "2026-02-03T25:00Z", "2026-02-03T09:60Z",
        "2026-02-03T09:10:60Z", "2026-02-03T23:58:60Z", "2026-02-03T23:59:61Z", "2026-02-03T23:59:60+01:00",
        "2026-02-03T9:10", "2026-02-03T09:", "2026-02-03T09:10:", "2026-02-03T09:10:11.",
        "2026-02-03T09:10:11.Z",
        "2026-02-03T09:10:11+1", "2026-02-03T09:10:11+24:00", "2026-02-03T09:10:11+01:60",
        "2026-02-03T09:10:11+",
        "2026-02-03T09:10:11Z+01:00", "2026-02-03T09:10:11  Z", "2026-02-03T09:10:11xZ",
        "2026-02-03T09:10:11UTC",
        "2026-02-03T09:10:11\u221201:00", "2026-02-30T09:10:11Z",
    ],
)  # fmt: skip
def test_what_is_no_date_time_is_refused_on_every_python(text: str) -> None:
    for read in (read_date, read_moment):
        with pytest.raises(ValueError, match=r".*"):
            read(text)


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-00:01", "9999-12-31T23:59:60Z"]
)
def test_a_moment_out_of_the_years_is_refused_and_its_date_is_not(text: str) -> None:
    assert read_date(text) == text[:10]
    with pytest.raises(ValueError, match="year"):
        read_moment(text)


@given(st.dates())
def test_every_date_is_read(day: date) -> None:
    assert read_date(day.isoformat()) == day.isoformat()


@given(MOMENTS, st.sampled_from("Tt "), st.sampled_from(["%z", "%:z"]))
def test_every_moment_is_read_however_it_is_written(moment: datetime, between: str, offset: str) -> None:
    written = moment.isoformat(between)
    if offset == "%z":
        written = written[:-6] + written[-6:].replace(":", "")
    assert read_moment(written) == moment
    assert read_date(written) == moment.date().isoformat()
    if not moment.utcoffset():
        assert read_moment(f"{written[: -5 if offset == '%z' else -6]}z") == moment


@given(st.text("0123456789-:.,TtZzW+ ", max_size=30))
def test_what_is_read_as_a_date_begins_with_it(text: str) -> None:
    try:
        day = read_date(text)
    except ValueError:
        with pytest.raises(ValueError, match=r".*"):
            read_moment(text)
        return
    assert text.startswith(day)
    assert date.fromisoformat(day).isoformat() == day


@given(MOMENTS, st.text("0123456789", min_size=1, max_size=40))
def test_a_fraction_of_any_length_falls_between_its_second_and_the_next(
    moment: datetime, digits: str
) -> None:
    second = moment.replace(microsecond=0)
    read = read_moment(f"{second.isoformat()[:19]}.{digits}{second.isoformat()[19:]}")
    assert (read == second) == (not digits.strip("0"))
    assert second <= read < second + timedelta(seconds=1)
