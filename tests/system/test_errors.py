"""Errors on their way from real workers: what the user catches, and that the fabric goes on."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

import fabric
from fabric import exceptions
from tests.system.looks import WAIT_S
from tests.system.raising import Leaver, leave, own_pid, raise_this

pytestmark = pytest.mark.system


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2) as context:
        yield context


# ---------------------------------------- what is no Exception


@pytest.mark.parametrize(("said", "code"), [(3, 3), (0, 0), (None, 0), ("a text", 1), (256, 0)])
def test_sys_exit_in_a_task_is_a_crash_with_its_exit_code(said: Any, code: int) -> None:
    with fabric.init(num_cpus=1):
        before = [own_pid.remote() for _ in range(50)]
        unlucky = leave.remote(said)
        after = [own_pid.remote() for _ in range(50)]
        with pytest.raises(exceptions.WorkerCrashedError, match=f"exited with code {code}") as got:
            unlucky.get(WAIT_S)
        assert not isinstance(got.value, exceptions.TaskError)
        assert ("a text" in str(got.value)) == (said == "a text")
        # one worker ran those before it, and another those behind it, each once
        pids = fabric.get(before + after, WAIT_S)
        assert len(set(pids)) == 2


def test_sys_exit_costs_a_retry_like_any_crash(session: fabric.Context, tmp_path: Any) -> None:
    kept = leave.options(max_retries=2).remote(7, str(tmp_path), 2)
    assert kept.get(WAIT_S) == "after 2"


def test_sys_exit_ends_an_actor_in_its_constructor_and_its_methods(session: fabric.Context) -> None:
    made = Leaver.remote()
    pid = made.pid.remote().get(WAIT_S)
    calls = [made.pid.remote(), made.leave.remote(5), made.pid.remote()]
    assert calls[0].get(WAIT_S) == pid
    for call in calls[1:]:
        with pytest.raises(exceptions.ActorDiedError, match=r"Leaver died: .* exited with code 5"):
            call.get(WAIT_S)
    unmade = Leaver.remote(6)
    with pytest.raises(exceptions.ActorDiedError, match=r"Leaver died: .* exited with code 6"):
        unmade.pid.remote().get(WAIT_S)
    restarted = Leaver.options(max_restarts=1).remote()
    first = restarted.pid.remote().get(WAIT_S)
    with pytest.raises(exceptions.ActorUnavailableError, match=r"Leaver.* exited with code 5"):
        restarted.leave.remote(5).get(WAIT_S)
    assert restarted.pid.remote().get(WAIT_S) != first
    assert own_pid.remote().get(WAIT_S) != os.getpid()


@pytest.mark.parametrize("kind", ["GeneratorExit", "KeyboardInterrupt", "Bare"])
def test_what_is_no_exception_is_the_cause_of_a_task_error(
    session: fabric.Context, kind: str
) -> None:
    pid = own_pid.remote().get(WAIT_S)
    made = Leaver.remote()
    for call in (raise_this.remote(kind), made.raise_this.remote(kind)):
        with pytest.raises(exceptions.TaskError) as caught:
            call.get(WAIT_S)
        assert type(caught.value.cause).__name__ == kind
        assert caught.value.__cause__ is caught.value.cause
    assert own_pid.remote().get(WAIT_S) == pid
    assert made.pid.remote().get(WAIT_S)
