"""Sessions: how they begin and end, also by a fork or by kill -9."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fabric
from fabric import actor, exceptions, task
from tests.leaks import MARK, processes_marked, runtime_entries, shared_memory
from tests.system.looks import WAIT_S, wait_until

pytestmark = pytest.mark.system

GONE_S = 2.0
"""What a killed driver leaves is gone after this long; the best of three, on a loaded machine."""


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@actor
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n


Counters: Any = Counter


# ---------------------------------------- begin and end


def test_a_session_begins_with_the_first_call_and_may_end_and_begin_again() -> None:
    for start in (lambda: add.remote(1), lambda: fabric.put(2), lambda: Counters.remote().add.remote(2)):
        assert not fabric.is_initialized()
        ref: Any = start()
        assert fabric.is_initialized()
        assert ref.get(WAIT_S) == 2
        fabric.shutdown()
        fabric.shutdown()
        assert not fabric.is_initialized()


def test_init_is_idempotent_and_a_context_manager() -> None:
    with pytest.raises(ZeroDivisionError), fabric.init(num_cpus=1, namespace="n") as context:
        assert context.namespace == "n"
        assert fabric.init().cluster == fabric.init(num_cpus=1).cluster == context.cluster
        with pytest.raises(exceptions.AlreadyRunningError, match="num_cpus=1"):
            fabric.init(num_cpus=2)
        assert add.remote(1).get(WAIT_S) == 2
        raise ZeroDivisionError
    assert not fabric.is_initialized()


def test_refs_and_handles_of_an_ended_session_are_clear_errors_also_in_the_next() -> None:
    with fabric.init(num_cpus=1):
        counter = Counters.remote()
        done, large = add.remote(1), fabric.put(b"x" * 1_000_000)
        assert done.get(WAIT_S) == 2
        pending = counter.add.remote(add.remote(1))
    uses: list[Callable[[], object]] = [
        done.get,
        large.get,
        pending.get,
        lambda: fabric.get([done]),
        lambda: fabric.get([pending]),
        lambda: fabric.wait([pending], timeout=1),
        lambda: pending.future().result(WAIT_S),
        lambda: asyncio.run(_wait_for(pending)),
        lambda: counter.add.remote(),
        lambda: fabric.kill(counter),
    ]
    with_session: list[Callable[[], object]] = [
        lambda: add.remote(done),  # type: ignore[arg-type]
        lambda: fabric.put([done]),
        lambda: fabric.put(counter),
    ]
    for use in uses:
        with pytest.raises(exceptions.SessionEndedError):
            use()
    assert not fabric.is_initialized()
    with fabric.init(num_cpus=1):
        for use in [*uses, *with_session]:
            with pytest.raises(exceptions.SessionEndedError):
                use()
        assert add.remote(1).get(WAIT_S) == 2


async def _wait_for(ref: Any) -> Any:
    return await ref


def test_a_fork_of_the_driver_is_refused_and_harms_nobody() -> None:
    with fabric.init(num_cpus=1):
        counter = Counters.remote()
        ready, pending = add.remote(1), add.remote(2)
        ready.get(WAIT_S)
        uses: dict[str, Callable[[], object]] = {
            "get": lambda: fabric.get([pending, ready]),
            "wait": lambda: fabric.wait([ready]),
            "call": lambda: add.remote(1),
            "method": lambda: counter.add.remote(),
            "actor": Counters.remote,
            "put": lambda: fabric.put(1),
            "init": fabric.init,
        }
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, json.dumps({name: _error_of(use) for name, use in uses.items()}).encode())
                fabric.shutdown()  # of the fork: the parent's session goes on
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = json.loads(pipe.read())
        os.waitpid(child, 0)
        assert said == dict.fromkeys(uses, "ForkedProcessError")
        assert counter.add.remote().get(WAIT_S) == 1
        assert pending.get(WAIT_S) == 3


def _error_of(use: Callable[[], object]) -> str:
    try:
        use()
    except Exception as error:
        return type(error).__name__
    return "nothing"


# ---------------------------------------- drivers that end otherwise

DRIVER = textwrap.dedent(
    """
    import sys, time
    import fabric
    @fabric.task
    def wait(): time.sleep(600)
    @fabric.task
    def nested(): return fabric.get(wait.remote())
    @fabric.actor
    class Busy:
        def pid(self): return 1
        def wait(self): time.sleep(600)
    fabric.init(num_cpus=2)
    large = [fabric.put(b"x" * 5_000_000) for _ in range(4)]
    busy = Busy.remote()
    fabric.get(busy.pid.remote())
    refs = [nested.remote(), wait.remote(), busy.wait.remote()]
    fabric.wait(refs, timeout=0.5)
    print("ready", flush=True)
    fabric.get(refs)
    """
)


def _driver() -> subprocess.Popen[str]:
    """A driver in the middle of things, with workers that run, an actor and large objects."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    return driver


def _rests(mark: str, segments: set[Path], root: Path) -> list[object]:
    return [*processes_marked(mark), *(shared_memory() - segments), *runtime_entries(root)]


def test_a_driver_killed_with_9_leaves_nothing_within_two_seconds() -> None:
    mark, root = os.environ[MARK], Path(os.environ["XDG_RUNTIME_DIR"])
    segments = shared_memory()
    for _ in range(3):
        with _driver() as driver:
            assert len(processes_marked(mark)) >= 6
            assert shared_memory() - segments
            assert runtime_entries(root)
            driver.kill()
            killed_at = time.monotonic()
        wait_until(lambda: not _rests(mark, segments, root), "nothing is left of a killed driver")
        if time.monotonic() - killed_at <= GONE_S:
            return
    pytest.fail(f"in three tries what a killed driver leaves was never gone within {GONE_S:g} s")


def test_a_driver_that_is_interrupted_leaves_nothing_either() -> None:
    mark, root = os.environ[MARK], Path(os.environ["XDG_RUNTIME_DIR"])
    segments = shared_memory()
    with _driver() as driver:
        driver.send_signal(signal.SIGINT)
        assert driver.wait(WAIT_S) in (130, -signal.SIGINT)
    wait_until(lambda: not _rests(mark, segments, root), "nothing is left of a driver")
