"""The conditions of a request: If-Match and If-None-Match, entity tags or `*` (RFC 9110, section 13).

Refuses a header that is neither.
"""

import re

from upsert_svc.api.requests import Call
from upsert_svc.errors import BadRequest
from upsert_svc.records.values import ANY, UNCONDITIONAL, Conditions

_TAG = r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
_TAGS = re.compile(rf"\s*{_TAG}\s*(?:,\s*{_TAG}\s*)*")
_EACH = re.compile(_TAG)


def conditions(call: Call) -> Conditions:
    """What the request asks of the record that stands. Raises BadRequest.

    A weak tag is never the same as a strong one to If-Match, and as good as it to If-None-Match.
    """
    if b"if-match" not in call.headers and b"if-none-match" not in call.headers:
        return UNCONDITIONAL
    return Conditions(_tags(call, "If-Match", is_strict=True), _tags(call, "If-None-Match", is_strict=False))


def _tags(call: Call, name: str, *, is_strict: bool) -> tuple[str, ...] | None:
    """The tags that a header lists, on one line or several; None where it is absent."""
    listed = call.headers.get(name.lower().encode())
    if listed is None:
        return None
    text = listed.decode("latin-1").strip()
    if is_any(text):
        return (ANY,)
    if not _TAGS.fullmatch(text):
        raise BadRequest(f'{name} must be * or entity tags in quotes, like "a", "b"')
    return tuple(tag for weak, tag in _EACH.findall(text) if not (is_strict and weak) and tag != ANY)


def is_any(text: str) -> bool:
    """Whether the value of a header is `*`, on one line or on several."""
    return all(part.strip() == ANY for part in text.split(","))


def quoted(entity_tag: str) -> str:
    """An entity tag as a header carries it."""
    return f'"{entity_tag}"'
