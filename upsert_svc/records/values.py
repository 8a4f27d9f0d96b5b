"""The values of a write and of a record: as they are asked for, sent to the database, and answered."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from upsert_svc.payloads import RecordPatch

By = Literal["external_id", "name", "record_id", "none"]
Outcome = Literal["created", "updated", "unchanged"]
Strategy = Literal["force", "merge", "replace"]

ANY = "*"


class Identifier(NamedTuple):
    """What finds a record, and the value it is found by."""

    by: By
    value: str


NEW = Identifier("none", "")  # of a record to be created outright


class Conditions(NamedTuple):
    """What must hold of the record that stands, by its entity tag, or ANY; None where nothing must."""

    if_match: Sequence[str] | None = None
    if_none_match: Sequence[str] | None = None

    def is_matched_by(self, entity_tag: str) -> bool:
        """Whether If-Match lets a record of that tag through."""
        return self.if_match is None or ANY in self.if_match or entity_tag in self.if_match

    def is_known(self, entity_tag: str) -> bool:
        """Whether If-None-Match names a record of that tag."""
        return self.if_none_match is not None and (
            ANY in self.if_none_match or entity_tag in self.if_none_match
        )


UNCONDITIONAL = Conditions()


class WriteRequest(NamedTuple):
    """What a caller asks for of one record. Without a strategy it is a patch: what is not sent stays."""

    identifier: Identifier
    patch: RecordPatch
    strategy: Strategy | None = None
    conditions: Conditions = UNCONDITIONAL
    is_dry_run: bool = False


class WriteRow(NamedTuple):
    """One write, validated by one version of its object's definition: a record_write but for its position."""

    object_id: int
    definition_version: int
    identifier: str
    record_id: str
    name: str | None
    external_id: str | None
    patch: str
    user_id: int
    strategy: str | None = None
    clears_external_id: bool = False
    if_match: Sequence[str] | None = None
    if_none_match: Sequence[str] | None = None


class ValidatedWrite(NamedTuple):
    """A write that its definition allows, the values it sends, and the attributes that were ignored."""

    write: WriteRow
    values: dict[str, Any]
    ignored: Sequence[str]


class Record(NamedTuple):
    """A record as it is answered, in the order in which every statement selects it.

    `fields` is JSON text: every active field, null when unset.
    """

    record_id: str
    name: str
    external_id: str | None
    fields: str
    version: int
    created_at: datetime
    updated_at: datetime
    created_by_user_id: int
    updated_by_user_id: int


_record_columns = itemgetter(*Record._fields)


def record_of(row: Mapping[str, Any]) -> Record:
    """The record in a row of any statement that selects the columns of one."""
    return Record._make(_record_columns(row))


class WriteResult(NamedTuple):
    """The record after a write, what the write did, what of the body was ignored, and the entity tag.

    What a dry run would have written has no tag, because another state may come to have it.
    """

    record: Record
    outcome: Outcome
    ignored: Sequence[str]
    entity_tag: str | None


def entity_tag(record: Record, definition_version: int) -> str:
    """What changes whenever the answered record does; as entity_tag in sql/functions/values.sql makes it."""
    return f"{record.record_id}.{record.version}.{definition_version}"
