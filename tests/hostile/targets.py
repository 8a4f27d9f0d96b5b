"""What hostile requests are aimed at."""

from dataclasses import dataclass
from typing import Any

from tests.support.every_type import definitions
from tests.support.harness import Api, record_of

TYPES = ("text", "integer", "decimal", "date", "dropdown", "regexp", "json")


@dataclass(frozen=True)
class Target:
    """An object with fields and one record, v1, that hostile requests are aimed at."""

    api: Api
    key: str
    record_id: str

    @property
    def records(self) -> str:
        return f"/custom_objects/{self.key}/records"

    async def state(self) -> list[dict[str, Any]]:
        """All records as they are: what no refused request may change."""
        return await self.api.records(self.key)


async def aimed(api: Api) -> Target:
    key = await api.new_object(*definitions(TYPES), naming={"is_unique": True})
    record = record_of(await api.create(key, name="Ford", external_id="v1"))
    return Target(api, key, record["id"])
