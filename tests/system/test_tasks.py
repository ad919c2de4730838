"""Tasks in real workers: options, retries, nesting, resources."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fabric
from fabric import exceptions, serialization, spawn, task
from tests.system.looks import WAIT_S, WorkerCount, wait_until, worker_pids
from tests.system.work import (
    Ledger,
    Unlucky,
    add,
    after,
    crash,
    depth,
    fail,
    fail_deeper,
    give,
    leaves,
    length,
    make_refs,
    pid,
    run_together,
    touch,
)

pytestmark = pytest.mark.system


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2, resources={"slot": 2}) as context:
        yield context


# ---------------------------------------- options


def test_a_call_has_as_many_results_as_it_was_asked_for(
    session: fabric.Context, tmp_path: Path
) -> None:
    nothing: object = touch.remote(str(tmp_path / "ran"))
    assert nothing is None
    wait_until((tmp_path / "ran").exists, "the call without results ran")
    for values in ((1, 2, 3), [1, 2, 3]):
        refs: Any = give.remote(values)
        assert fabric.get(refs, WAIT_S) == [1, 2, 3]
    assert fabric.get(give.options(num_returns=None).remote((1, 2, 3)), WAIT_S) == (1, 2, 3)


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3, 4), 7, None])
def test_a_wrong_number_of_results_is_a_value_error_on_every_ref(values: Any) -> None:
    with fabric.init(num_cpus=1):
        refs: Any = give.remote(values)
        assert len(refs) == 3
        for ref in refs:
            with pytest.raises(ValueError, match="num_returns=3"):
                ref.get(WAIT_S)


def test_a_wrong_option_is_an_error_where_it_is_written() -> None:
    loose: Any = task
    with pytest.raises(TypeError, match="'num_cpus'"):
        loose(num_cpu=2)
    with pytest.raises(TypeError, match="'max_retries'"):
        loose(pid).options(max_retrys=1)
    with pytest.raises(TypeError, match="num_cpus must be a number"):
        pid.options(num_cpus="two")
    with pytest.raises(ValueError, match="num_cpus"):
        pid.options(num_cpus=-1)
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'z'"):
        add.remote(1, z=2)  # type: ignore[call-overload]
    assert not fabric.is_initialized()


# ---------------------------------------- crashes


def test_a_task_whose_worker_is_killed_runs_again(session: fabric.Context, tmp_path: Path) -> None:
    assert crash.remote(signal.SIGKILL, 2, str(tmp_path)).get(WAIT_S) == "after 2"


def test_attempts_end_and_the_error_names_the_signal(
    session: fabric.Context, tmp_path: Path
) -> None:
    once, often = tmp_path / "once", tmp_path / "often"
    once.mkdir()
    often.mkdir()
    unlucky = crash.options(max_retries=0).remote(signal.SIGKILL, 9, str(once))
    dependent = add.remote(unlucky)
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        unlucky.get(WAIT_S)
    assert len(list(once.iterdir())) == 1
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        dependent.get(WAIT_S)
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGSEGV"):
        crash.remote(signal.SIGSEGV, 9, str(often)).get(WAIT_S)
    assert len(list(often.iterdir())) == 3


def test_a_worker_killed_from_outside_costs_its_neighbours_nothing(
    session: fabric.Context, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    runs = [pid.remote() for _ in range(20)]
    fabric.get(runs, WAIT_S)
    waiting = [after.options(max_retries=1).remote(str(gate)) for _ in range(2)]
    queued = [add.options(max_retries=0).remote(i) for i in range(500)]
    victim = random.choice(sorted(worker_pids()))
    os.kill(victim, signal.SIGKILL)
    gate.touch()
    assert fabric.get(waiting, WAIT_S) == [str(gate)] * 2
    assert fabric.get(queued[100:], WAIT_S) == [i + 1 for i in range(100, 500)]


# ---------------------------------------- dependencies and refs


def test_refs_are_arguments_before_they_are_ready(session: fabric.Context, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = after.remote(str(gate))
    left, right = add.remote(first, "-left"), add.remote("right-", y=first)
    both = add.remote(left, right)
    ready, _ = fabric.wait([both], timeout=0)
    assert not ready
    gate.touch()
    assert both.get(WAIT_S) == f"{gate}-leftright-{gate}"


def test_an_error_goes_through_dependents_and_nested_calls_as_the_users_type(
    session: fabric.Context,
) -> None:
    last = add.remote(1, add.remote(add.remote(fail.remote(13))))
    with pytest.raises(Unlucky, match="number 13") as caught:
        last.get(WAIT_S)
    assert isinstance(caught.value, exceptions.TaskError)
    assert caught.value.number == 13
    with pytest.raises(Unlucky, match="number 14"):
        fail_deeper.remote(3, 14).get(WAIT_S)


def test_a_result_may_hold_refs_that_the_worker_made(session: fabric.Context) -> None:
    for _ in range(3):
        outer = make_refs.remote(10)
        found = outer.get(WAIT_S)
        del outer
        fabric.get([add.remote(i) for i in range(100)], WAIT_S)  # the worker does something else
        assert found["ready"].get(WAIT_S) == 2
        assert fabric.get(found["pending"], WAIT_S) == list(range(1, 11))
        assert found["put"].get(WAIT_S) == "small"
        assert found["large"].get(WAIT_S) == b"x" * 1_000_000
        assert found["large result"].get(WAIT_S) == b"y" * 1_000_000 + b"z"
        assert add.remote(found["ready"], 5).get(WAIT_S) == 7
        with pytest.raises(Unlucky):
            found["failed"].get(WAIT_S)


# ---------------------------------------- nesting and resources


@pytest.mark.timeout(120)
def test_calls_nest_two_hundred_deep_in_a_bounded_number_of_workers(
    session: fabric.Context,
) -> None:
    with WorkerCount() as workers:
        assert depth.remote(200).get(2 * WAIT_S) == 200
    assert workers.most <= 256


def test_there_are_never_more_workers_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABRIC_WORKERS_MAX", "6")
    with fabric.init(num_cpus=2), WorkerCount() as workers:
        assert fabric.get([leaves.remote(2)], WAIT_S) == [4]
        with pytest.raises(exceptions.WaitsLimitExceeded):
            depth.remote(20).get(WAIT_S)
        assert depth.remote(4).get(WAIT_S) == 4
    assert 2 < workers.most <= 6


def test_half_a_cpu_admits_two_at_a_time(tmp_path: Path) -> None:
    with fabric.init(num_cpus=1):
        half = run_together.options(num_cpus=0.5)
        seen = fabric.get([half.remote(str(tmp_path), 2) for _ in range(10)], WAIT_S)
        assert max(seen) == 2


def test_a_custom_resource_admits_only_so_many(session: fabric.Context, tmp_path: Path) -> None:
    slotted = run_together.options(num_cpus=0, resources={"slot": 1})
    seen = fabric.get([slotted.remote(str(tmp_path), 2) for _ in range(10)], WAIT_S)
    assert max(seen) == 2
    assert fabric.cluster_resources()["slot"] == 2


def test_an_impossible_request_is_an_error_with_the_numbers(session: fabric.Context) -> None:
    with pytest.raises(exceptions.UnschedulableError, match=r"64.*\b2\b"):
        pid.options(num_cpus=64).remote().get(WAIT_S)
    with pytest.raises(exceptions.UnschedulableError, match=r"slot.*3.*2"):
        pid.options(num_cpus=0, resources={"slot": 3}).remote().get(WAIT_S)
    with pytest.raises(exceptions.UnschedulableError, match="unicorn"):
        pid.options(resources={"unicorn": 1}).remote().get(WAIT_S)
    assert isinstance(pid.options(num_cpus=2).remote().get(WAIT_S), int)


# ---------------------------------------- sizes


def test_large_inline_arguments_are_cut_into_messages_and_too_many_are_an_error(
    session: fabric.Context,
) -> None:
    piece = bytes(90_000)
    assert fabric.get([length.remote(piece) for _ in range(400)]) == [90_000] * 400
    ledger: Any = spawn(Ledger)
    lengths = [ledger.length.remote(piece) for _ in range(400)]
    assert fabric.get(lengths, timeout=WAIT_S) == [90_000] * 400
    pieces = [give.options(num_returns=1).remote(piece) for _ in range(800)]
    with pytest.raises(exceptions.SerializationError, match="more than a message takes"):
        fabric.get(length.remote(*pieces), timeout=WAIT_S)
    assert fabric.get(length.remote(*pieces[:100]), timeout=WAIT_S) == 9_000_000


def test_a_function_that_carries_too_much_data_is_refused_with_advice(
    session: fabric.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialization, "FUNCTION_BYTES_MAX", 100_000)
    data = bytes(200_000)

    @task
    def heavy() -> int:
        return len(data)

    with pytest.raises(exceptions.SerializationError, match=r"heavy weighs 200,\d{3} bytes") as why:
        heavy.remote()
    assert "fabric.put" in str(why.value)
