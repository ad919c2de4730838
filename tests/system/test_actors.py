"""Actors in real workers: order, names, ends, restarts."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fabric
from fabric import exceptions
from tests.system.looks import WAIT_S, is_running, wait_until
from tests.system.work import Broken, Ledger, Unlucky, add_to, after, fail, find

pytestmark = pytest.mark.system

Ledgers: Any = Ledger
"""Handles are typed as instances for the methods' sake; here their looser side is used."""

Brokens: Any = Broken


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2) as context:
        yield context


def states() -> dict[str, int]:
    """How many actors are in which state, as the control store knows them."""
    from fabric.runtime.client import current_client

    found: dict[str, int] = {}
    for each in current_client().view().actors:
        found[each.state] = found.get(each.state, 0) + 1
    return found


# ---------------------------------------- order


def test_calls_run_in_the_callers_order_also_behind_arguments_not_ready(
    session: fabric.Context, tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")
    ledger = Ledgers.remote()
    ledger.add.remote(0)
    late = ledger.add.remote(after.remote(gate, 1))
    never = ledger.add.remote(fail.remote(13))
    rest = [ledger.add.remote(i) for i in range(2, 50)]
    ready, _ = fabric.wait([late, *rest], timeout=0)
    assert not ready
    Path(gate).touch()
    assert ledger.read.remote().get(WAIT_S) == list(range(50))
    assert fabric.get(rest, WAIT_S) == list(range(3, 51))
    with pytest.raises(Unlucky, match="number 13"):
        never.get(WAIT_S)


def test_a_caller_that_waits_for_an_argument_holds_up_nobody_else(
    session: fabric.Context, tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")
    ledger = Ledgers.remote()
    late = ledger.add.remote(after.options(num_cpus=0).remote(gate, "late"))
    behind = ledger.add.remote("behind")
    assert add_to.remote(ledger, ["task's", "own"]).get(WAIT_S) == [1, 2]
    Path(gate).touch()
    assert fabric.get([late, behind], WAIT_S) == [3, 4]
    assert ledger.read.remote().get(WAIT_S) == ["task's", "own", "late", "behind"]


def test_each_of_two_callers_keeps_its_own_order(session: fabric.Context) -> None:
    ledger = Ledgers.remote()
    others = add_to.remote(ledger, [("task", i) for i in range(200)])
    for i in range(200):
        ledger.add.remote(("driver", i))
    others.get(WAIT_S)
    entries = ledger.read.remote().get(WAIT_S)
    for caller in ("task", "driver"):
        assert [n for who, n in entries if who == caller] == list(range(200))


def test_handles_travel_to_tasks_and_to_other_actors(session: fabric.Context) -> None:
    first, second = Ledgers.remote(), Ledgers.remote("second's")
    assert add_to.remote(first, [1, 2]).get(WAIT_S) == [1, 2]
    assert second.tell.remote(first, 3).get(WAIT_S) == 3
    keeper = Ledgers.remote({"the": [first]})
    del first
    found = keeper.read.remote().get(WAIT_S)[0]["the"][0]
    assert found.read.remote().get(WAIT_S) == [1, 2, 3]


# ---------------------------------------- names


def test_a_name_belongs_to_one_living_actor_of_a_namespace(session: fabric.Context) -> None:
    ledger = Ledgers.options(name="ledger").remote("here")
    assert fabric.get_actor("ledger").read.remote().get(WAIT_S) == ["here"]
    assert fabric.get_actor("ledger") == ledger
    with pytest.raises(exceptions.NameTakenError, match="ledger") as caught:
        Ledgers.options(name="ledger").remote()
    assert isinstance(caught.value, ValueError)
    same = Ledgers.options(name="ledger", get_if_exists=True).remote("again")
    assert same == ledger
    other = Ledgers.options(name="ledger", namespace="elsewhere").remote("there")
    assert other != ledger
    found = fabric.get_actor("ledger", namespace="elsewhere")
    assert found.read.remote().get(WAIT_S) == ["there"]
    with pytest.raises(ValueError, match="nobody"):
        fabric.get_actor("nobody")
    fabric.kill(ledger)
    wait_until(lambda: states().get("dead") == 1, "the killed actor is dead")
    with pytest.raises(ValueError, match="ledger"):
        fabric.get_actor("ledger")
    heir = Ledgers.options(name="ledger", get_if_exists=True).remote("heir")
    assert heir.read.remote().get(WAIT_S) == ["heir"]


def test_a_task_finds_the_actors_of_its_job(session: fabric.Context) -> None:
    ledger = Ledgers.options(name="known").remote("yes")
    assert find.remote("known").get(WAIT_S) == ["yes"]
    del ledger


# ---------------------------------------- ends


def test_kill_ends_the_process_and_fails_what_it_ran_and_what_waits(
    session: fabric.Context, tmp_path: Path
) -> None:
    ledger = Ledgers.remote()
    pid = ledger.pid.remote().get(WAIT_S)
    running = ledger.wait.remote(str(tmp_path / "never"))
    waiting = [ledger.add.remote(i) for i in range(3)]
    fabric.kill(ledger)
    for ref in (running, *waiting, ledger.read.remote()):
        with pytest.raises(exceptions.ActorDiedError):
            ref.get(WAIT_S)
    wait_until(lambda: not is_running(pid), "the killed actor's process ended")


def test_exit_actor_is_not_swallowed_and_fails_the_calls_behind_it(
    session: fabric.Context,
) -> None:
    ledger = Ledgers.options(max_restarts=5).remote()
    pid = ledger.pid.remote().get(WAIT_S)
    before = ledger.add.remote(1)
    left, behind = ledger.leave.remote(), ledger.add.remote(2)
    assert before.get(WAIT_S) == 1
    for ref in (left, behind, ledger.add.remote(3)):
        with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
            ref.get(WAIT_S)
    wait_until(lambda: not is_running(pid), "the actor's process ended")
    assert states() == {"dead": 1}


def test_exit_actor_outside_of_an_actor_is_an_error(session: fabric.Context) -> None:
    with pytest.raises(TypeError, match="exit_actor"):
        fabric.exit_actor()


def test_an_error_of_the_constructor_is_told_to_every_call(session: fabric.Context) -> None:
    broken = Brokens.remote("key")
    for _ in range(2):
        with pytest.raises(exceptions.ActorDiedError, match="KeyError") as caught:
            broken.read.remote().get(WAIT_S)
        assert isinstance(caught.value.__cause__, KeyError)
    late = Ledgers.remote(fail.remote(13))
    with pytest.raises(exceptions.FabricError, match="number 13"):
        late.read.remote().get(WAIT_S)


def test_an_actor_ends_with_its_last_handle_and_its_process_is_gone(
    session: fabric.Context,
) -> None:
    ledger = Ledgers.remote()
    pid = ledger.pid.remote().get(WAIT_S)
    keeper = Ledgers.remote([ledger])
    keeper_pid = keeper.pid.remote().get(WAIT_S)
    del ledger
    found = keeper.read.remote().get(WAIT_S)[0][0]  # it lives on by the keeper's handle
    assert found.pid.remote().get(WAIT_S) == pid
    last = [found.add.remote(i) for i in range(100)]
    del found, keeper
    assert fabric.get(last, WAIT_S) == list(range(1, 101))
    wait_until(lambda: not is_running(keeper_pid), "the keeper's process ended")
    wait_until(lambda: not is_running(pid), "the kept actor's process ended")


# ---------------------------------------- crashes


def test_a_crash_without_restarts_fails_calls_in_flight_and_later_ones(
    session: fabric.Context, tmp_path: Path
) -> None:
    ledger = Ledgers.remote()
    pid = ledger.pid.remote().get(WAIT_S)
    running = ledger.wait.remote(str(tmp_path / "never"))
    waiting = [ledger.add.remote(i) for i in range(3)]
    os.kill(pid, signal.SIGKILL)
    for ref in (running, *waiting, ledger.read.remote()):
        with pytest.raises(exceptions.ActorDiedError, match="SIGKILL"):
            ref.get(WAIT_S)


def test_a_killed_actor_is_restarted_without_its_state_as_often_as_it_may(
    session: fabric.Context,
) -> None:
    ledger = Ledgers.options(max_restarts=2).remote("made")
    pids = []
    for _ in range(2):
        ledger.add.remote("told")
        assert ledger.read.remote().get(WAIT_S) == ["made", "told"]
        pids.append(ledger.pid.remote().get(WAIT_S))
        with pytest.raises(exceptions.ActorUnavailableError):
            ledger.crash.remote().get(WAIT_S)
        assert ledger.read.remote().get(WAIT_S) == ["made"]
    assert len({*pids, ledger.pid.remote().get(WAIT_S)}) == 3
    with pytest.raises(exceptions.ActorDiedError):
        ledger.crash.remote().get(WAIT_S)
    with pytest.raises(exceptions.ActorDiedError):
        ledger.read.remote().get(WAIT_S)


def test_calls_of_a_restarted_actor_are_repeated_as_often_as_they_may(
    session: fabric.Context, tmp_path: Path
) -> None:
    ledger = Ledgers.options(max_restarts=1, max_task_retries=1).remote()
    pid = ledger.pid.remote().get(WAIT_S)
    gate = tmp_path / "gate"
    running = ledger.wait.remote(str(gate))
    waiting = [ledger.add.remote(i) for i in range(20)]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the killed process is gone")
    gate.touch()
    assert running.get(WAIT_S) != pid
    assert fabric.get(waiting, WAIT_S) == list(range(1, 21))
    assert ledger.read.remote().get(WAIT_S) == list(range(20))
