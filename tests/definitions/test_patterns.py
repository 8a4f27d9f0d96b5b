"""The patterns of regexp fields: what is taken, and what matching may cost in time and memory."""

import random
import time

import psutil
import pytest

from upsert_svc.definitions import patterns
from upsert_svc.definitions.field_types import FieldDefinition
from upsert_svc.definitions.patterns import STEP_LIMIT, Pattern
from upsert_svc.definitions.validator import SIZE_LIMIT, FieldValidator
from upsert_svc.errors import RecordInvalid

SLOW = r"(?:[ab]{0,300}a[ab]{300}){0,3}c"
MEBIBYTE = 1024 * 1024
_chance = random.Random(1)


def a_and_b(length: int) -> str:
    return "".join(_chance.choices("ab", k=length))


# As forms ask for them.
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^[^@\s]+@[^@\s]+\.[a-zA-Z]{2,}$", "someone@example.com"),
        (r"^[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,63}$", "a.b+c@mail.example.org"),
        (r"^[A-Z]{2}\d{2}[A-Z0-9]{11,30}$", "DE89370400440532013000"),
        (r"^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$", "123e4567-e89b-12d3-a456-426614174000"),
        (r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$", "2024-02-29"),
        (r"^(0[1-9]|[12]\d|3[01])[./](0[1-9]|1[0-2])[./](19|20)\d{2}$", "29.02.2024"),
        (r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$", "23:59:59"),
        (r"^\+?[0-9 ()/.-]{6,20}$", "+49 (0)30 1234-567"),
        (r"^\+[1-9]\d{1,14}$", "+4930123456"),
        (r"^[A-HJ-NPR-Z0-9]{17}$", "1HGCM82633A004352"),
        (r"^(?:\d{4}[ -]?){3}\d{4}$", "4111 1111 1111 1111"),
        (r"^\d{5}(-\d{4})?$", "12345-6789"),
        (r"^[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}$", "SW1A 1AA"),
        (r"^https?://[^\s/$.?#][^\s]{1,255}$", "https://example.com/a?b=c"),
        (r"^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)$", "192.168.0.1"),
        (r"^#?([a-fA-F0-9]{6}|[a-fA-F0-9]{3})$", "#ffcc00"),
        (r"^[A-Za-z0-9_-]{1,255}$", "x" * 255),
        (r"^.{1,255}$", "€" * 255),
        (r"^[\s\S]{0,1000}$", "é" * 600),
        (r"^[\p{L} '-]{2,50}$", "Żółć d'Été" * 5),
        (r"^(?:INC|REQ|CHG)-?\d{6,10}$", "INC-0012345"),
        (r"^\$?\d{1,3}(?:,\d{3})*(?:\.\d{2})?$", "$1,234,567.89"),
        (r"^(?i)(?:monday|tuesday|wednesday|thursday|friday)$", "Friday"),
    ],
)
def test_common_patterns_are_taken_and_match(pattern: str, text: str) -> None:
    patterns.require_bounded(pattern)
    validate = FieldValidator([FieldDefinition("f", "regexp", regexp_for_validation=pattern)])
    assert validate.validate({"f": text}) == {"f": text}


@pytest.mark.parametrize("pattern", [r"\pL{60}", "(?:[ab]?[bc]?[cd]?){999}" * 25, r"(?:\pN\pL){50}"])
def test_a_pattern_of_too_many_states_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        patterns.require_bounded(pattern)


def test_the_patterns_of_an_object_are_bounded_together() -> None:
    patterns.require_bounded(r"\pL{20}", [r"\pL{20}", "(not a pattern"])
    with pytest.raises(ValueError, match="together"):
        patterns.require_bounded(r"\pL{20}", [r"\pL{20}", r"\pN\pL{20}"])


@pytest.mark.parametrize(
    ("pattern", "alphabet"),
    [
        (SLOW, "ab"),
        (r"[ab]*a[ab]{14}c$", "ab"),
        (r"[ab]*a[ab]{500}[ab]*a[ab]{400}c", "ab"),
        (r"(?:.?){999}\x00", "ab€😀"),
        (r"(?:a?b?){400}\x00", "ab"),
        (r"(?:[\x{100}-\x{17f}]?){999}\x00", "".join(map(chr, range(0x100, 0x180)))),
        (r"(?:\pL?){50}\x00", "aéжあ"),
        (r"\pL{200}\x00", "aéжあ"),  # not taken any more, but one of before may be stored
    ],
)
def test_no_match_that_is_allowed_takes_long(pattern: str, alphabet: str) -> None:
    compiled = Pattern(pattern.encode())
    text = "".join(_chance.choices(alphabet, k=SIZE_LIMIT)).encode()[
        : min(STEP_LIMIT // compiled.steps, SIZE_LIMIT)
    ]
    started = time.process_time()
    assert not compiled.is_found_in(text)
    assert time.process_time() - started < 0.25


def test_text_is_held_to_the_limit_of_a_record_before_it_is_matched() -> None:
    fields = [FieldDefinition(f"f{n}", "regexp", regexp_for_validation="a") for n in range(100)]
    validate = FieldValidator(fields)
    assert validate.validate({"f0": "a" * SIZE_LIMIT})
    for values in ({"f0": "é" * (SIZE_LIMIT // 2) + "a"}, {f"f{n}": "a" * 330 for n in range(100)}):
        with pytest.raises(RecordInvalid) as caught:
            validate.validate(values)
        assert list(caught.value.details or {}) == ["base"]


def test_text_that_would_take_too_many_steps_is_refused_by_the_name_of_its_field() -> None:
    fields = [FieldDefinition(f"f{n}", "regexp", regexp_for_validation=SLOW) for n in range(3)]
    validate = FieldValidator(fields)
    assert validate.validate({"f0": a_and_b(700) + "c", "f1": "c"})
    with pytest.raises(RecordInvalid) as caught:
        validate.validate({"f0": a_and_b(800) + "c", "f1": a_and_b(800) + "c", "f2": "c"})
    assert dict(caught.value.details or {})["f1"][0].error == "TooLong"


def test_a_stored_pattern_that_is_none_matches_nothing_and_keeps_nobody_from_the_other_fields() -> None:
    fields = [
        FieldDefinition("bad", "regexp", regexp_for_validation=r"\pL{900}"),
        FieldDefinition("t", "text"),
    ]
    validate = FieldValidator(fields)
    assert validate.validate({"t": "x"}) == {"t": "x"}
    with pytest.raises(RecordInvalid):
        validate.validate({"bad": "x"})


def test_what_patterns_learn_of_texts_takes_little_memory() -> None:
    fields = [
        FieldDefinition(f"f{n}", "regexp", regexp_for_validation=f"[ab]*a[ab]{{14}}c{n}$") for n in range(100)
    ]
    validate = FieldValidator(fields)
    before = psutil.Process().memory_info().rss
    for _ in range(60):
        validate.validate({f"f{n}": f"{a_and_b(300)}aaaaaaaaaaaaaaaac{n}" for n in range(100)})
    assert psutil.Process().memory_info().rss - before < 50 * MEBIBYTE


def test_patterns_of_many_definitions_take_little_memory() -> None:
    before = psutil.Process().memory_info().rss
    kept = []
    for n in range(1, 1000, 2):
        validate = FieldValidator(
            [FieldDefinition("f", "regexp", regexp_for_validation=f"[ab]*a[ab]{{{n}}}c")]
        )
        with pytest.raises(RecordInvalid):
            validate.validate({"f": a_and_b(1_000)})
        kept.append(validate)
    assert psutil.Process().memory_info().rss - before < 120 * MEBIBYTE
