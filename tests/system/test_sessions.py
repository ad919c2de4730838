"""Sessions: how they begin and end, also by a fork or by kill -9."""

import asyncio
import contextlib
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
from fabric import exceptions
from tests.leaks import MARK, processes_marked, runtime_entries, shared_memory
from tests.system.looks import WAIT_S, wait_until
from tests.system.work import Ledger, add

pytestmark = pytest.mark.system

GONE_S = 2.0
"""What a killed driver leaves is gone after this long; the best of three, on a loaded machine."""


Ledgers: Any = Ledger


# ---------------------------------------- begin and end


def test_a_session_begins_with_the_first_call_and_may_end_and_begin_again() -> None:
    starts: list[Callable[[], Any]] = [
        lambda: add.remote(1),
        lambda: fabric.put(2),
        lambda: Ledgers.remote(1).add.remote(2),
    ]
    for start in starts:
        assert not fabric.is_initialized()
        ref = start()
        assert fabric.is_initialized()
        assert ref.get(WAIT_S) == 2
        fabric.shutdown()
        fabric.shutdown()
        assert not fabric.is_initialized()


def test_init_is_idempotent_and_a_context_manager() -> None:
    with fabric.init(num_cpus=1, namespace="n") as context:
        assert context.namespace == "n"
        assert fabric.init().cluster == fabric.init(num_cpus=1).cluster == context.cluster
        with pytest.raises(exceptions.AlreadyRunningError, match="num_cpus=1"):
            fabric.init(num_cpus=2)
        assert add.remote(1).get(WAIT_S) == 2
    assert not fabric.is_initialized()
    with pytest.raises(ZeroDivisionError), fabric.init(num_cpus=1):
        raise ZeroDivisionError
    assert not fabric.is_initialized()


def test_refs_and_handles_of_an_ended_session_are_clear_errors_also_in_the_next() -> None:
    with fabric.init(num_cpus=1):
        ledger = Ledgers.remote()
        done, large = add.remote(1), fabric.put(b"x" * 1_000_000)
        assert done.get(WAIT_S) == 2
        pending = ledger.add.remote(add.remote(1))
    uses: list[Callable[[], object]] = [
        done.get,
        large.get,
        pending.get,
        lambda: fabric.get([done]),
        lambda: fabric.get([pending]),
        lambda: fabric.wait([pending], timeout=1),
        lambda: pending.future().result(WAIT_S),
        lambda: asyncio.run(_wait_for(pending)),
        lambda: ledger.add.remote(1),
        lambda: fabric.kill(ledger),
    ]
    with_session: list[Callable[[], object]] = [
        lambda: add.remote(done),
        lambda: fabric.put([done]),
        lambda: fabric.put(ledger),
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
        ledger = Ledgers.remote()
        ready, pending = add.remote(1), add.remote(2)
        ready.get(WAIT_S)
        uses: dict[str, Callable[[], object]] = {
            "get": lambda: fabric.get([pending, ready]),
            "wait": lambda: fabric.wait([ready]),
            "call": lambda: add.remote(1),
            "method": lambda: ledger.add.remote(1),
            "actor": Ledgers.remote,
            "put": lambda: fabric.put(1),
        }
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                found = {name: _error_of(use) for name, use in uses.items()}
                os.write(writer, json.dumps(found).encode())
                fabric.shutdown()  # of the fork: the parent's session goes on
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = json.loads(pipe.read())
        os.waitpid(child, 0)
        assert said == dict.fromkeys(uses, "ForkedProcessError")
        assert ledger.add.remote(1).get(WAIT_S) == 1
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


def _stores_of(driver: subprocess.Popen[str]) -> list[Path]:
    """The stores that this driver made, by their locks: others may run meanwhile."""
    found = []
    for path in shared_memory():
        with contextlib.suppress(OSError):  # somebody else's has just ended
            if (path / "lock").read_text().split()[0] == str(driver.pid):
                found.append(path)
    return found


def _rests(stores: list[Path]) -> list[object]:
    """What there is of drivers that this test started."""
    processes = processes_marked(os.environ[MARK])
    entries = runtime_entries(Path(os.environ["XDG_RUNTIME_DIR"]))
    return [*processes, *entries, *(path for path in stores if path.exists())]


def _wait_until_gone(stores: list[Path]) -> None:
    wait_until(lambda: not _rests(stores), "nothing is left of the driver")


def test_a_driver_killed_with_9_leaves_nothing_within_two_seconds() -> None:
    for _ in range(3):
        with _driver() as driver:
            stores = _stores_of(driver)
            assert len(stores) == 1
            assert (
                len(_rests(stores)) >= 8
            )  # driver, four daemons and workers, an actor, two places
            driver.kill()
            killed_at = time.monotonic()
        _wait_until_gone(stores)
        if time.monotonic() - killed_at <= GONE_S:
            return
    pytest.fail(f"in three tries what a killed driver leaves was never gone within {GONE_S:g} s")


def test_a_driver_that_is_interrupted_leaves_nothing_either() -> None:
    with _driver() as driver:
        stores = _stores_of(driver)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(WAIT_S) in (130, -signal.SIGINT)
    _wait_until_gone(stores)
