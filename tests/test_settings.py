"""Settings come from the environment, some also under the name that they had before."""

import pytest
from pydantic import ValidationError

from upsert_svc.__main__ import _setting_problem
from upsert_svc.settings import Settings


@pytest.mark.parametrize(
    ("name", "earlier", "field", "default"),
    [
        ("BATCH_CONNECTIONS", "LANES", "batch_connections", 1),
        ("BATCH_LOCK_TIMEOUT_SECONDS", "LANE_LOCK_TIMEOUT_SECONDS", "batch_lock_timeout_seconds", 0.1),
    ],
)
def test_a_setting_goes_by_its_earlier_name_too(
    monkeypatch: pytest.MonkeyPatch, name: str, earlier: str, field: str, default: float
) -> None:
    assert getattr(Settings(), field) == default
    monkeypatch.setenv(f"UPSERT_SVC_{earlier}", "3")
    assert getattr(Settings(), field) == 3
    monkeypatch.setenv(f"UPSERT_SVC_{name}", "5")
    assert getattr(Settings(), field) == 5


@pytest.mark.parametrize("name", ["LANES", "BATCH_CONNECTIONS", "POOL_SIZE"])
def test_a_wrong_setting_is_named_as_it_was_set_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"UPSERT_SVC_{name}", "x99")
    with pytest.raises(ValidationError) as caught:
        Settings()
    (problem,) = map(_setting_problem, caught.value.errors())
    assert problem.startswith(f"UPSERT_SVC_{name}: ")
    assert "x99" not in problem
