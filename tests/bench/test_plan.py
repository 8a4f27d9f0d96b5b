"""The command line, and what is looked at before anything is started."""

import shutil
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from bench import growth, plan


def test_without_a_word_the_upserts_are_measured() -> None:
    asked = plan.read([])
    assert (asked.command, asked.workloads) == ("upserts", ("update",))
    assert asked.targets == ("pgbench", "pgbench-32", "service-1", "service-2")
    assert asked.connections == (1, 8, 32, 64, 128)


def test_options_may_follow_no_command() -> None:
    assert plan.read(["--rounds", "5"]) == plan.read(["upserts", "--rounds", "5"])


def test_peers_come_after_the_rest() -> None:
    assert plan.read(["open-loop", "--peers"]).targets == ("service-1", "fastapi", "fastify")


def test_any_number_of_workers_is_a_target() -> None:
    asked = plan.read(["--targets", "pgbench", "service-4"])
    assert [plan.workers_of(name) for name in asked.targets] == [0, 4]


def test_the_earlier_names_of_the_options_are_taken() -> None:
    earlier = plan.read(["--rivals", "--contestants", "pgbench"])
    assert earlier == plan.read(["--peers", "--targets", "pgbench"])
    assert earlier.targets == ("pgbench", "fastapi", "fastify")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--targets", "service-0"],
        ["reads", "--targets", "fastapi"],
        ["open-loop", "--targets", "pgbench"],
        ["--workload", "deletes"],
        ["--keys", "99"],
        ["--keys", "1000000000"],
        ["--seconds", "0"],
        ["--rounds", "0"],
        ["open-loop", "--share", "0"],
    ],
)
def test_what_cannot_be_run_is_refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        plan.read(list(arguments))
    assert refused.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "needed"), [(["growth"], 6), (["growth", "--large"], 31)])
def test_growth_looks_for_room_on_the_disk_first(
    arguments: Sequence[str], needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan.read(list(arguments))

    def with_free(gigabytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=gigabytes * 2**30))

    with_free(needed + 1)
    growth.check(asked)
    with_free(needed - 1)
    with pytest.raises(SystemExit, match=f"needs about {needed} GB free .* TMPDIR"):
        growth.check(asked)
