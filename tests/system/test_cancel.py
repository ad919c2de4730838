"""Cancelling real calls: nobody waits for them, what runs ends, and nobody else is hit."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fabric
from fabric import exceptions
from tests.system.looks import WAIT_S, is_running, wait_until
from tests.system.stops import (
    Keeper,
    calls_others,
    cancels,
    computes,
    counts,
    makes_named,
    sits_in_c,
    sleeps,
    swallows,
    tidies_up,
    waits_for,
)
from tests.system.work import add, after, depth, pid

pytestmark = pytest.mark.system

Keepers: Any = Keeper


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[fabric.Context]:
    monkeypatch.setenv("FABRIC_CANCEL_GRACE_S", "0.5")
    with fabric.init(num_cpus=2) as context:
        yield context


def begun(path: Path) -> int:
    """The process that has reached that mark."""
    wait_until(lambda: path.exists() and path.read_text() != "", f"the mark {path}")
    return int(path.read_text())


def assert_cancelled(*refs: Any) -> None:
    """Getting them ends, and with that error."""
    for ref in refs:
        with pytest.raises(exceptions.TaskCancelledError):
            ref.get(WAIT_S)


def assert_both_cpus_are_free() -> None:
    """Two calls can run at a time, which nothing that was cancelled prevents."""
    assert fabric.get([add.options(num_cpus=2).remote(1)], WAIT_S) == [2]


@pytest.mark.parametrize("force", [False, True], ids=["interrupted", "forced"])
@pytest.mark.parametrize(
    "running", [sleeps, computes, swallows, sits_in_c], ids=lambda one: str(one.__name__)
)
def test_a_running_task_ends_whatever_it_does_and_its_neighbours_go_on(
    session: fabric.Context, tmp_path: Path, running: Any, force: bool
) -> None:
    gate = tmp_path / "gate"
    neighbour = after.options(max_retries=0).remote(str(gate), "whole")
    ref = running.remote(str(tmp_path / "mark"))
    worker = begun(tmp_path / "mark")
    behind = [counts.remote(str(tmp_path), number) for number in range(20)]
    fabric.cancel(ref, force=force)
    assert_cancelled(ref)
    gate.touch()
    assert neighbour.get(WAIT_S) == "whole"
    assert fabric.get(behind, WAIT_S) == list(range(20))
    assert len(list(tmp_path.glob("*-*"))) == 20
    assert_both_cpus_are_free()
    if running in (swallows, sits_in_c):
        wait_until(lambda: not is_running(worker), "the worker of the stubborn call is gone")


def test_calls_that_have_not_begun_never_do(session: fabric.Context, tmp_path: Path) -> None:
    place = tmp_path / "runs"
    place.mkdir()
    marks = [tmp_path / "one", tmp_path / "two"]
    busy = [sleeps.remote(str(mark)) for mark in marks]
    for mark in marks:
        begun(mark)
    ready = [counts.remote(str(place), number) for number in range(2000)]
    dependent = add.remote(ready[7])
    for ref in (*ready, *busy):
        fabric.cancel(ref)
    assert_cancelled(*ready[::100], dependent, *busy)
    assert_both_cpus_are_free()
    assert not list(place.iterdir())


def test_a_finished_call_is_left_alone(session: fabric.Context) -> None:
    ref = add.remote(1)
    assert ref.get(WAIT_S) == 2
    fabric.cancel(ref)
    assert ref.get() == 2


def test_user_code_sees_an_interrupt_and_can_tidy_up(
    session: fabric.Context, tmp_path: Path
) -> None:
    path = tmp_path / "mark"
    ref = tidies_up.remote(str(path))
    begun(path)
    fabric.cancel(ref)
    assert_cancelled(ref)
    wait_until(Path(f"{path}-tidied").exists, "the call has tidied up")
    assert Path(f"{path}-interrupted").exists()


@pytest.mark.parametrize("recursive", [True, False], ids=["recursive", "alone"])
def test_what_a_cancelled_call_has_called_is_cancelled_if_it_is_meant(
    session: fabric.Context, tmp_path: Path, recursive: bool
) -> None:
    path = tmp_path / "parent"
    parent = calls_others.remote(str(path), 2)
    children = [tmp_path / f"parent-{i}" for i in range(2)]
    for each in (path, *children):
        begun(each)
    fabric.cancel(parent, recursive=recursive)
    assert_cancelled(parent)
    assert_both_cpus_are_free()
    tidied = [Path(f"{each}-tidied") for each in children]
    if recursive:
        wait_until(lambda: all(each.exists() for each in tidied), "the children have ended")
    else:
        assert not any(each.exists() for each in tidied)


def test_the_children_of_a_call_that_is_ended_by_force_end_too(
    session: fabric.Context, tmp_path: Path
) -> None:
    path = tmp_path / "parent"
    parent = calls_others.remote(str(path), 1)
    begun(tmp_path / "parent-0")
    fabric.cancel(parent, force=True)
    assert_cancelled(parent)
    wait_until((tmp_path / "parent-0-tidied").exists, "the child has ended")


def test_a_call_of_an_actor_is_interrupted_and_the_actor_keeps_its_state(
    session: fabric.Context, tmp_path: Path
) -> None:
    keeper = Keepers.remote()
    own = keeper.pid.remote().get(WAIT_S)
    keeper.add.remote(1)
    running = keeper.sleep.remote(str(tmp_path / "mark"))
    queued, last = keeper.add.remote(2), keeper.add.remote(3)
    begun(tmp_path / "mark")
    with pytest.raises(ValueError, match=r"fabric\.kill"):
        fabric.cancel(running, force=True)
    fabric.cancel(queued)
    fabric.cancel(running)
    assert_cancelled(queued, running)
    assert last.get(WAIT_S) == [1, 3]
    assert keeper.pid.remote().get(WAIT_S) == own


def test_a_borrower_cancels_too(session: fabric.Context, tmp_path: Path) -> None:
    ref = sleeps.remote(str(tmp_path / "mark"))
    begun(tmp_path / "mark")
    assert cancels.remote([ref]).get(WAIT_S) is None
    assert_cancelled(ref)


def test_a_task_may_run_only_so_long(session: fabric.Context, tmp_path: Path) -> None:
    timed = sleeps.options(timeout_s=0.2)
    with pytest.raises(exceptions.TaskCancelledError, match=r"timeout_s of 0\.2 s"):
        timed.remote(str(tmp_path / "mark")).get(WAIT_S)
    quick = add.options(timeout_s=WAIT_S)
    assert fabric.get([quick.remote(i) for i in range(50)], WAIT_S) == list(range(1, 51))
    mapped = timed.map([str(tmp_path / "one"), str(tmp_path / "two")])
    assert_cancelled(*mapped)
    assert_both_cpus_are_free()
    with pytest.raises(ValueError, match="timeout_s"):
        add.options(timeout_s=0)


def test_an_item_of_a_map_can_be_cancelled(session: fabric.Context, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    refs = after.map([str(gate)] * 8)
    late = refs[7]
    fabric.cancel(late)
    assert_cancelled(late)
    gate.touch()
    assert refs[0].get(WAIT_S) == str(gate)


def test_who_stops_waiting_cancels_nothing_but_the_wait(
    session: fabric.Context, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    ref = after.remote(str(gate), "value")

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ref, 0.05)

    asyncio.run(give_up())
    future = ref.future()
    assert future.cancel()
    gate.touch()
    assert ref.get(WAIT_S) == "value"


def test_only_refs_are_cancelled(session: fabric.Context) -> None:
    loose: Any = fabric.cancel
    with pytest.raises(TypeError, match="int"):
        loose(7)
    put = fabric.put(1)
    fabric.cancel(put)
    assert put.get() == 1


# ---------------------------------------- actors in trouble


def test_of_a_hundred_calls_in_a_pipe_the_one_that_ran_may_be_lost_and_none_hangs(
    session: fabric.Context, tmp_path: Path
) -> None:
    keeper = Keepers.options(max_restarts=1).remote()
    own = keeper.pid.remote().get(WAIT_S)
    before = [keeper.add.remote(number) for number in range(50)]
    running = keeper.sleep.remote(str(tmp_path / "mark"))
    behind = [keeper.add.remote(number) for number in range(50, 100)]
    begun(tmp_path / "mark")
    os.kill(own, signal.SIGKILL)
    assert fabric.get(before, WAIT_S)[-1] == list(range(50))
    with pytest.raises(exceptions.ActorError):
        running.get(WAIT_S)
    assert fabric.get(behind, WAIT_S)[-1] == list(range(50, 100))


def test_of_many_who_make_a_named_actor_at_once_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with fabric.init(num_cpus=4):
        gate = tmp_path / "gate"
        racers = [makes_named.options(num_cpus=0.5).remote("one", str(gate)) for _ in range(4)]
        gate.touch()
        assert sorted(fabric.get(racers, WAIT_S)) == ["made", "taken", "taken", "taken"]
        keeper = fabric.get_actor("one")
        same = Keepers.options(name="one", get_if_exists=True).remote()
        assert same == keeper
        fabric.kill(keeper)


def test_calls_of_an_actor_whose_constructor_hangs_wait_as_long_as_one_likes(
    session: fabric.Context, tmp_path: Path
) -> None:
    keeper = Keepers.remote(str(tmp_path / "never"))
    calls = [keeper.add.remote(number) for number in range(3)]
    with pytest.raises(exceptions.GetTimeoutError):
        calls[0].get(0.2)
    fabric.cancel(calls[1])
    assert_cancelled(calls[1])
    fabric.kill(keeper)
    for call in (calls[0], calls[2]):
        with pytest.raises(exceptions.ActorDiedError):
            call.get(WAIT_S)
    assert_both_cpus_are_free()


# ---------------------------------------- waits without end


def test_actors_that_wait_for_each_other_say_so_and_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FABRIC_WAIT_WARNING_S", "0.2")
    with fabric.init(num_cpus=2):
        one, other = Keepers.remote(), Keepers.remote()
        fabric.get([one.pid.remote(), other.pid.remote()], timeout=WAIT_S)
        # each waits for the other, which is busy with waiting
        refs = [one.ask.remote(other), other.ask.remote(one)]
        with caplog.at_level(logging.WARNING, "fabric"):
            began = time.monotonic()
            _ready, rest = fabric.wait(refs, num_returns=2, timeout=1.0)
        if rest:  # else one was through before the other began
            assert time.monotonic() - began >= 1.0
            assert "Keeper.ask` (is at its worker)" in caplog.text
            for ref in rest:
                fabric.cancel(ref)
            assert_cancelled(*rest)
        assert len(fabric.get([one.pid.remote(), other.pid.remote()], timeout=WAIT_S)) == 2


def test_a_call_that_waits_for_itself_can_be_cancelled(session: fabric.Context) -> None:
    keeper = Keepers.remote()
    ref = keeper.ask.remote(keeper)
    with pytest.raises(exceptions.GetTimeoutError):
        ref.get(0.3)
    fabric.cancel(ref)
    assert_cancelled(ref)
    assert keeper.add.remote(1).get(WAIT_S) == [1]


def test_a_chain_of_waits_beyond_the_limit_is_an_error_that_tells_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FABRIC_WORKERS_MAX", "3")
    with fabric.init(num_cpus=2):
        chain = r"3 workers.*depth 3: depth in w:\w+ waits for depth in w:\w+ waits for depth in"
        with pytest.raises(exceptions.WaitsLimitExceeded, match=chain):
            depth.remote(20).get(WAIT_S)
        assert isinstance(pid.remote().get(WAIT_S), int)
        refs = [sleeps.options(num_cpus=0).remote(str(tmp_path / str(i))) for i in range(3)]
        waiting = waits_for.options(num_cpus=0).remote(refs)
        for i in range(3):
            begun(tmp_path / str(i))
        for ref in (waiting, *refs):  # it waits for a worker, and all three are busy
            fabric.cancel(ref)
        assert_cancelled(waiting, *refs)
