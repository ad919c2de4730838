"""Workers that die in every way, and what they leave: the rows of faults about workers.

Each trouble is followed by the same question: is the fabric as usable as before?
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fabric
from fabric import exceptions
from tests.system.looks import WAIT_S, is_running, wait_until, worker_pids
from tests.system.trouble import (
    cgroup,
    children_in,
    innocent,
    large_then_dead,
    leave,
    nap,
    poison,
    raise_children,
)
from tests.system.work import Ledger, add, pid

pytestmark = pytest.mark.system

REPO = Path(__file__).parents[2]


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    """Whatever happened in it: in the end everything is free again, and both workers work."""
    with fabric.init(num_cpus=2) as context:
        yield context
        assert_usable()


def assert_usable() -> None:
    """Calls run, large ones too, an actor can be made, and all CPUs come back."""
    assert fabric.get([add.remote(i) for i in range(100)], WAIT_S) == list(range(1, 101))
    assert len(add.remote(b"x" * 300_000, b"y").get(WAIT_S)) == 300_001
    ledger = Ledger.remote(1)
    assert ledger.read.remote().get(WAIT_S) == [1]
    del ledger
    totals = fabric.cluster_resources()
    wait_until(lambda: fabric.available_resources() == totals, "all is free again")


# ---------------------------------------- how a worker may end


@pytest.mark.parametrize(
    ("how", "signal_", "exit_code", "words"),
    [
        ("os._exit(0)", None, 0, "exited with code 0"),
        ("os._exit(7)", None, 7, "exited with code 7"),
        ("sys.exit(3)", None, 3, "exited with code 3"),
        ("SIGKILL", 9, None, "ended by signal 9 (SIGKILL)"),
        ("segfault", 11, None, "ended by signal 11 (SIGSEGV)"),
    ],
)
def test_the_error_says_how_the_worker_ended_and_its_last_words(
    session: fabric.Context, how: str, signal_: int | None, exit_code: int | None, words: str
) -> None:
    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        leave.remote(how).get(WAIT_S)
    error = caught.value
    assert (error.signal, error.exit_code, error.attempt) == (signal_, exit_code, 1)
    assert error.task == "leave"
    assert error.pid > 1
    assert error.node.startswith("n:")
    assert words in str(error)
    assert f"leaving by {how}" in error.last_words
    assert error.last_words in str(error)
    assert "\x1b" not in str(error)  # what a terminal would obey is left out
    if how == "segfault":
        assert "Fatal Python error: Segmentation fault" in error.last_words
        assert "trouble.py" in error.last_words
        assert "in leave" in error.last_words


def test_a_poison_call_ends_after_its_retries_and_its_neighbours_pay_nothing(
    session: fabric.Context, tmp_path: Path
) -> None:
    before = [innocent.remote(str(tmp_path), i) for i in range(100)]
    poisoned = [poison.remote(str(tmp_path)) for _ in range(3)]
    behind = [innocent.remote(str(tmp_path), i) for i in range(100, 200)]
    assert fabric.get(before + behind, WAIT_S) == list(range(200))
    for one in poisoned:
        with pytest.raises(
            exceptions.WorkerCrashedError, match="`poison` crashed in attempt 3"
        ) as caught:
            one.get(WAIT_S)
        assert (caught.value.task, caught.value.attempt) == ("poison", 3)
    assert len(list(tmp_path.glob("run-*"))) == 9
    assert len(list(tmp_path.glob("innocent-*"))) == 200  # each ran once


def test_a_result_that_was_written_and_never_announced_is_made_again_and_its_memory_comes_back(
    tmp_path: Path,
) -> None:
    nbytes = 20_000_000
    with fabric.init(num_cpus=2, object_store_memory=64_000_000):
        ref = large_then_dead.remote(str(tmp_path), nbytes)
        value = ref.get(WAIT_S)
        assert value == bytes([2]) * nbytes  # of the attempt that counts, by every look at it
        others = [fabric.put(b"x" * nbytes) for _ in range(2)]  # no room beside three attempts
        assert ref.get(WAIT_S) == value
        del ref, value, others
        assert_usable()


# ---------------------------------------- what user code starts


@pytest.mark.parametrize("then", ["crash", ""])
def test_with_a_worker_end_all_processes_that_it_began_also_daemons(
    session: fabric.Context, tmp_path: Path, then: str
) -> None:
    call = raise_children.remote(str(tmp_path), then)
    if then == "crash":
        with pytest.raises(exceptions.WorkerCrashedError):
            call.get(WAIT_S)
    else:
        worker = call.get(WAIT_S)
        assert all(is_running(one) for one in children_in(str(tmp_path)))
        os.kill(worker, signal.SIGKILL)
    wait_until(
        lambda: not any(map(is_running, children_in(str(tmp_path)))), "the children are gone"
    )


def test_with_a_killed_node_end_all_processes_that_its_workers_began(tmp_path: Path) -> None:
    with fabric.init(num_cpus=2):
        node = _parent_of(pid.remote().get(WAIT_S))
        call = raise_children.remote(str(tmp_path), "wait")
        wait_until((tmp_path / "waiting").exists, "the worker waits")
        os.kill(node, signal.SIGKILL)
        with pytest.raises(exceptions.FabricError):
            call.get(WAIT_S)
        wait_until(
            lambda: not any(map(is_running, children_in(str(tmp_path)))), "the children are gone"
        )


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---------------------------------------- limits of the machine


def run_driver(code: str, group: Path | None = None, prefix: tuple[str, ...] = ()) -> Any:
    """A program of its own, in that control group; what it prints, as JSON."""

    def enter() -> None:
        assert group is not None
        (group / "cgroup.procs").write_text(str(os.getpid()))

    driver = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPO,
        timeout=2 * WAIT_S,
        preexec_fn=enter if group is not None else None,
    )
    assert driver.returncode == 0, driver.stderr
    return json.loads(driver.stdout.splitlines()[-1])


USABLE = """
from tests.system.test_troubles import assert_usable
assert_usable()
"""

FORKS = """
import fabric, json
from tests.system.trouble import fork_without_end
place = {place!r}
with fabric.init(num_cpus=2):
    try:
        said = fork_without_end.remote(place, 500).get(30)
    except BlockingIOError as error:
        said = type(error).__name__
    from tests.system.looks import worker_pids, wait_until
    import os, signal
    for one in worker_pids():
        os.kill(one, signal.SIGKILL)
"""


def test_a_fork_bomb_fails_alone_and_all_of_it_goes_with_its_worker(tmp_path: Path) -> None:
    with cgroup("pids", max=100) as group:
        if group is None:
            pytest.skip("control groups cannot be made here")
        code = FORKS.format(place=str(tmp_path)) + _indented(USABLE) + "print(json.dumps(said))"
        assert run_driver(code, group) == "TaskError(BlockingIOError)"
    assert next(tmp_path.glob("forks-*"))


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.strip().splitlines())


MEMORY = """
import fabric, json, os
from tests.system.looks import wait_until
from tests.system.trouble import hoard
place, gate = {place!r}, {place!r} + "/gate"
os.mkdir(place + "/old"); os.mkdir(place + "/young"); os.mkdir(place + "/last")
figures = dict()
with fabric.init(num_cpus=2):
    from pathlib import Path
    full = lambda name: list(Path(place, name).glob("full-*"))
    old = hoard.remote(place + "/old", 80, gate)
    wait_until(lambda: full("old"), "the old one is full")
    young = hoard.remote(place + "/young", 600, gate)
    try:
        young.get(60)
    except fabric.exceptions.OutOfMemoryError as error:
        figures["error"] = [error.task, error.rss, error.limit, error.attempt]
    open(gate, "w").close()
    figures["old"] = old.get(30)
    figures["runs"] = len(list(Path(place, "young").glob("run-*")))
"""


def test_before_memory_runs_out_the_youngest_call_that_may_run_again_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_OOM_RETRIES_MAX", "2")
    monkeypatch.setenv("FABRIC_OOM_RETRY_S", "0.05")
    limit = 400_000_000
    with cgroup("memory", limit_in_bytes=limit) as group:
        if group is None:
            pytest.skip("control groups cannot be made here")
        code = MEMORY.format(place=str(tmp_path)) + _indented(USABLE) + "print(json.dumps(figures))"
        figures = run_driver(code, group)
    task, rss, of, attempt = figures["error"]
    assert task == "hoard"
    assert 50_000_000 < rss < limit
    assert of == pytest.approx(limit, rel=0.01)
    assert (attempt, figures["runs"]) == (3, 3)  # two further attempts, by the budget of its own
    assert figures["old"] == 0  # its first attempt


FULL = """
import fabric, json, numpy, os
from fabric import exceptions
from tests.system.work import add
def error_of(use):
    try:
        use()
    except exceptions.ObjectStoreFullError as error:
        return [error.need, error.free]
with fabric.init(num_cpus=2, object_store_memory=10_000_000):
    small = fabric.put(numpy.ones(125_000))
    larger = error_of(lambda: fabric.put(b"x" * 11_000_000))
    with open("/dev/shm/foreign", "wb") as foreign:
        foreign.write(bytes(8_000_000))  # what the store counts on, others have
    large = fabric.task(lambda: b"x" * 8_000_000)
    said = [
        larger,
        error_of(lambda: fabric.put(b"x" * 8_000_000)),
        error_of(lambda: large.remote().get(30)),
    ]
    assert len(add.remote(b"x" * 60_000, b"y" * 60_000).get(30)) == 120_000
    assert small.get().sum() == 125_000
    os.unlink("/dev/shm/foreign")
    assert len(large.remote().get(30)) == 8_000_000
"""


def test_a_full_shared_memory_is_a_typed_error_and_never_a_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside = "mount -t tmpfs -o size=12m fabric-test /dev/shm"
    prefix = ("unshare", "-m", "sh", "-c", f'{inside} && exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("mount namespaces cannot be made here")
    monkeypatch.setenv("FABRIC_STORE_FULL_GRACE_S", "0.2")
    code = FULL + _indented(USABLE) + "print(json.dumps(said))"
    for need, free in run_driver(code, prefix=prefix):
        assert need >= 8_000_000
        assert free < need


# ---------------------------------------- many calls, one death


def test_of_two_hundred_short_calls_on_two_workers_none_is_lost_with_one_of_them(
    session: fabric.Context,
) -> None:
    fabric.get([pid.remote() for _ in range(20)], WAIT_S)
    calls = [nap.remote(i, 0.01) for i in range(200)]
    fabric.get(calls[:20], WAIT_S)
    os.kill(min(worker_pids()), signal.SIGKILL)
    assert fabric.get(calls, WAIT_S) == list(range(200))
