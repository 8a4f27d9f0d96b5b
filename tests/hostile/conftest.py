import pytest
from harness import Api
from hostile.targets import Target, aimed
from hostile.wire import Wire


@pytest.fixture(scope="session")
async def wire(api: Api) -> Wire:
    return Wire(api.running, api.token)


@pytest.fixture(scope="session")
async def target(api: Api) -> Target:
    return await aimed(api)
