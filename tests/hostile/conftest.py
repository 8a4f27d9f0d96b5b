import pytest

from tests.hostile.targets import Target, aimed
from tests.hostile.wire import Wire
from tests.support.harness import Api


@pytest.fixture(scope="session")
async def wire(api: Api) -> Wire:
    return Wire(api.running, api.token)


@pytest.fixture(scope="session")
async def target(api: Api) -> Target:
    return await aimed(api)
