import pytest

from tests.support.endpoints import Place, make_place
from tests.support.harness import Api


@pytest.fixture(scope="module")
async def place(api: Api) -> Place:
    return await make_place(api)
