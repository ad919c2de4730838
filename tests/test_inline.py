"""The inline session: the same values and errors as a private fabric, on the thread that calls."""

import asyncio
import bdb
import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import fabric
from fabric import exceptions, spawn, task
from fabric.core.events import (
    CancelSince,
    Drained,
    Event,
    OutputPrinted,
    PeerLost,
    SegmentWritten,
    WantSegment,
)
from fabric.runtime.client import client_or_none
from fabric.runtime.inline import InlineClient
from tests.api_work import add, same
from tests.mode_programs import PROGRAMS, RESOURCES, Error, Ledgers, Tellers
from tests.system.work import depth


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(inline=True, **RESOURCES) as context:
        yield context


def difference(name: str) -> str:
    """What a program gives in this session, if that is not what is expected of it."""
    function, expected = PROGRAMS[name]
    try:
        found = function()
    except Exception as error:
        if not isinstance(expected, Error):
            return f"{name}: raised {type(error).__name__}: {error}"
        is_right = all(isinstance(error, kind) for kind in expected.kinds)
        is_right = is_right and expected.text in str(error)
        return "" if is_right else f"{name}: raised {type(error).__mro__}: {error}"
    return "" if found == expected else f"{name}: {found!r} instead of {expected!r}"


# ---------------------------------------- the same


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_in_one_process_what_is_expected(name: str) -> None:
    with fabric.init(inline=True, **RESOURCES):
        assert not difference(name)


@pytest.mark.system
def test_every_program_gives_the_same_on_a_private_fabric() -> None:
    with fabric.init(**RESOURCES):
        assert not [found for name in PROGRAMS if (found := difference(name))]


NOT_OF_USERS = {CancelSince, Drained, OutputPrinted, PeerLost, SegmentWritten, WantSegment}
"""What a client hears from its loop, of shared memory, or as a worker's: never from a user."""


def test_all_that_users_say_to_a_client_is_done_inline(session: fabric.Context) -> None:
    client = client_or_none()
    assert isinstance(client, InlineClient)
    said = {one for one in client.machine._on if issubclass(one, Event)}
    assert said - NOT_OF_USERS == client.fabric.hears()


# ---------------------------------------- one thread


def test_a_call_runs_where_it_is_made(session: fabric.Context) -> None:
    seen = task(_stack).remote().get()
    assert seen[0] == ("_stack", threading.get_ident())
    assert ("test_a_call_runs_where_it_is_made", threading.get_ident()) in seen


def _stack() -> list[tuple[str, int]]:
    frame: Any = sys._getframe()
    found = []
    while frame is not None:
        found.append((frame.f_code.co_name, threading.get_ident()))
        frame = frame.f_back
    return found


@pytest.mark.system
def test_no_process_thread_or_file_is_needed(tmp_path: Any) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with fabric.init(inline=True):
        assert fabric.get(add.map(range(100)))[99] == 100
        assert add.remote(1).future().result() == 2
        assert same.remote(bytes(10_000_000)).get() == bytes(10_000_000)
        assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
        assert not os.listdir(os.environ["XDG_RUNTIME_DIR"])


def test_a_wait_that_cannot_end_is_an_error_that_says_so(session: fabric.Context) -> None:
    teller = Tellers.remote()
    with pytest.raises(exceptions.NeedsConcurrencyError, match=r"the end of `Teller\.wait_for"):
        teller.wait_for_itself.remote(teller, None).get()
    assert teller.all.remote().get() == [7]  # what it waited for came afterwards


def test_a_coroutine_that_cannot_end_is_the_same_error(session: fabric.Context) -> None:
    @fabric.actor
    class Waiter:
        def wait(self, me: Any) -> Any:
            async def wait() -> Any:
                return await me.later.remote()

            return asyncio.run(wait())

        def later(self) -> int:
            return 1

    waiter: Any = spawn(Waiter)
    with pytest.raises(exceptions.NeedsConcurrencyError):
        waiter.wait.remote(waiter).get()


def test_calls_that_wait_for_arguments_run_when_these_are_there(session: fabric.Context) -> None:
    @fabric.actor
    class Later:
        def __init__(self) -> None:
            self.sums: list[Any] = []

        def plan(self, me: Any) -> Any:
            late = me.later.remote()
            other: Any = spawned(late)
            return add.remote(late, y=add.remote(late)), other.read.remote()

        def later(self) -> int:
            return 5

    def spawned(first: Any) -> Any:
        return Ledgers.remote(first)

    later: Any = spawn(Later)
    total, read = later.plan.remote(later).get()
    assert fabric.get([total, read]) == [11, [5]]


def test_calls_nest_as_deep_as_there_may_be_workers(session: fabric.Context) -> None:
    stack_max = sys.getrecursionlimit()
    assert depth.remote(200).get() == 200
    with pytest.raises(exceptions.WaitsLimitExceeded, match="256 calls"):
        depth.remote(300).get()
    assert sys.getrecursionlimit() == stack_max

    @task
    def fall() -> int:
        def again(n: int) -> int:
            return again(n + 1) + 1

        return again(0)

    with pytest.raises(RecursionError):
        fall.remote().get()


def test_threads_of_the_user_take_turns(session: fabric.Context) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: task(_alone).remote().get(), range(50)))
    assert found == [1] * 50


_inside: list[int] = []


def _alone() -> int:
    _inside.append(1)
    try:
        with open("/proc/self/stat"):  # other threads get their chance
            return len(_inside)
    finally:
        _inside.pop()


def test_a_wait_for_another_threads_turn_ends_with_it(session: fabric.Context) -> None:
    gate, entered = threading.Event(), threading.Event()
    _gates[:] = [entered, gate]
    ticking = threading.Thread(target=lambda: task(_pass_gate).remote())
    ticking.start()
    assert entered.wait(10)
    values: list[int] = []
    second = threading.Thread(target=lambda: values.append(add.remote(1).get()))
    second.start()
    assert not values
    gate.set()
    ticking.join()
    second.join()
    assert values == [2]


_gates: list[threading.Event] = []


def _pass_gate() -> None:
    entered, gate = _gates
    entered.set()
    gate.wait(10)


def test_values_go_with_their_refs(session: fabric.Context) -> None:
    inner = add.remote(1)
    watch = weakref.ref(inner)
    outer = same.remote({"inner": inner})
    ledger = Tellers.remote()
    boxes = [fabric.put([outer, ledger]), same.remote([ledger])]
    del inner, outer, ledger
    gc.collect()
    assert watch() is not None
    assert boxes[0].get()[0].get()["inner"].get() == 2
    client = client_or_none()
    assert client is not None
    del boxes
    gc.collect()
    assert watch() is None
    assert not client.inflight
    assert [one.state for one in client.view().actors] == ["dead"]


# ---------------------------------------- the keyboard


def test_an_interruption_goes_up_and_the_session_goes_on(session: fabric.Context) -> None:
    ledger = Tellers.remote()
    for interrupt in (KeyboardInterrupt, bdb.BdbQuit):

        @task
        def stop(kind: Any = interrupt) -> None:
            raise kind

        @task
        def outer(stop: Any = stop) -> None:
            stop.remote()

        with pytest.raises(interrupt):
            outer.remote()
        assert fabric.get_runtime_context().task_name is None
    assert ledger.all.remote().get() == []
    assert fabric.get(add.map(range(3))) == [1, 2, 3]


SCRIPT = """
import fabric

@fabric.task
def outer(x):
    return inner.remote(x + 1).get()

@fabric.task
def inner(y):
    z = 2 * y
    breakpoint()
    return z

print("before")
ref = outer.remote(20)
print("after", ref.get())
"""


@pytest.mark.system
@pytest.mark.parametrize("ends_by", ["c", "q"])
def test_the_debugger_works_in_a_terminal(tmp_path: Any, ends_by: str) -> None:
    import pexpect

    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "FABRIC_MODE": "inline", "TERM": "dumb"}
    child = pexpect.spawn(
        sys.executable, [str(script)], env=environment, encoding="utf-8", timeout=20
    )
    try:
        child.expect("before.*return z\r\n")
        child.expect_exact("(Pdb) ")
        for asked, answer in [
            ("p y, z", r"\(21, 42\)"),
            ("where", r"print|ref = outer\.remote\(20\)[\s\S]*inner\.remote[\s\S]*inner\(\)"),
            ("z = 43", ""),
        ]:
            child.sendline(asked)
            child.expect(answer + r"[\s\S]*\(Pdb\) ")
        child.sendline(ends_by)
        child.expect("after 43\r\n" if ends_by == "c" else "bdb.BdbQuit")
        child.expect(pexpect.EOF)
    finally:
        child.close()
    assert child.exitstatus == (0 if ends_by == "c" else 1)


# ---------------------------------------- sessions


def test_a_session_is_inline_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with fabric.init(inline=True, num_cpus=3) as context:
        assert context.cluster.startswith("inline-")
        assert fabric.init().cluster == fabric.init(inline=True).cluster == context.cluster
        with pytest.raises(exceptions.AlreadyRunningError):
            fabric.init(num_cpus=4)
        ref, ledger = add.remote(1), Tellers.remote()
    assert not fabric.is_initialized()
    for use in (ref.get, ledger.all.remote):
        with pytest.raises(exceptions.SessionEndedError):
            use()
    with fabric.init("auto", inline=True):
        assert add.remote(1).get() == 2
    monkeypatch.setenv("FABRIC_MODE", "online")
    with pytest.raises(exceptions.ConfigError, match="'online'"):
        fabric.init()


def test_a_variable_of_the_environment_is_enough_whatever_the_address() -> None:
    script = (
        "import fabric, os; from fabric import task;"
        "print(fabric.init('auto').cluster[:7], task(os.getpid).remote().get() == os.getpid())"
    )
    environment = {**os.environ, "FABRIC_MODE": "inline", "FABRIC_ADDRESS": "auto"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "inline- True\n", "")


def test_what_ends_a_worker_ends_an_attempt(session: fabric.Context, tmp_path: Any) -> None:
    @task(max_retries=2)
    def leave_twice(place: str) -> int:
        with open(os.path.join(place, "log"), "a+") as log:
            log.write("x")
            log.seek(0)
            runs = len(log.read())
        return runs if runs == 3 else sys.exit(runs)

    assert leave_twice.remote(str(tmp_path)).get() == 3
    with pytest.raises(exceptions.WorkerCrashedError, match="exited with code 4"):
        leave_twice.options(max_retries=0).remote(str(tmp_path)).get()

    @fabric.actor(max_restarts=1)
    class Leaver:
        def leave(self) -> None:
            sys.exit("reason")

        def stay(self) -> int:
            return 1

    leaver: Any = spawn(Leaver)
    with pytest.raises(exceptions.ActorUnavailableError, match="exited with code 1"):
        leaver.leave.remote().get()
    assert leaver.stay.remote().get() == 1
    with pytest.raises(exceptions.ActorDiedError, match="after 1 restarts"):
        leaver.leave.remote().get()
    with pytest.raises(exceptions.ActorDiedError):
        leaver.stay.remote().get()
