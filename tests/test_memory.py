"""Memory: what the kernel says, whom a node ends when it runs out, and what callers do then."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fabric.config import Limits
from fabric.core.client.client import ClientMachine
from fabric.core.crashes import crash_failure
from fabric.core.effects import Drain, MeasureMemory, Resolve, Send, StartWorker, StopWorker
from fabric.core.events import Drained, MemoryMeasured, WorkerMemory
from fabric.core.node.crashes import Crashes
from fabric.core.node.node import NodeMachine
from fabric.protocol.messages import (
    ActorStarted,
    LeaseGranted,
    PlaceActor,
    ReturnLease,
    WorkerDied,
)
from fabric.protocol.values import Crash, Progress
from fabric.runtime.memory import MemoryMeter, own_memory
from tests.core_words import (
    CONTROL,
    ME,
    NODE,
    W1,
    W2,
    W3,
    a,
    actor_spec,
    c,
    granted,
    hear,
    killed,
    leased,
    me_of,
    new_client,
    o,
    ready,
    requested,
    submit,
    tell,
)

GB = 1_000_000_000
MEMINFO = "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable: 6000 kB\n"
KB = 1024


# -- what the kernel says


def kernel(root: Path, **files: str) -> MemoryMeter:
    """A kernel with these files; ``__`` stands for a slash, ``_`` inside names stays."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MemoryMeter(str(root))


def test_without_groups_the_machine_is_what_counts(tmp_path: Path) -> None:
    meter = kernel(tmp_path)
    assert meter.limit == 8000 * KB
    assert meter.measure() == (2000 * KB, 8000 * KB)


def test_a_group_of_version_1_counts_without_pages_that_can_be_dropped(tmp_path: Path) -> None:
    group = "sys__fs__cgroup__memory__jobs__mine"
    meter = kernel(
        tmp_path,
        proc__self__cgroup="5:cpu,cpuacct:/\n4:memory:/jobs/mine\n0::/\n",
        **{
            f"{group}__memoryDOTlimit_in_bytes": "1000000\n",
            f"{group}__memoryDOTusage_in_bytes": "900000\n",
            f"{group}__memoryDOTstat": "cache 1\ntotal_inactive_file 100000\n",
            f"{group}__memoryDOToom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        },
    )
    assert meter.limit == 1_000_000
    assert meter.measure() == (800_000, 1_000_000)
    assert not meter.has_killed()
    control = tmp_path / "sys/fs/cgroup/memory/jobs/mine/memory.oom_control"
    control.write_text("oom_kill 3\n")
    assert meter.has_killed()
    assert not meter.has_killed()  # told already


def test_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    inner, outer = "sys__fs__cgroup__jobs__mine", "sys__fs__cgroup__jobs"
    meter = kernel(
        tmp_path,
        proc__self__cgroup="0::/jobs/mine\n",
        **{
            f"{inner}__memoryDOTmax": "max\n",
            f"{outer}__memoryDOTmax": "4000000\n",
            f"{outer}__memoryDOTcurrent": "3000000\n",
            f"{outer}__memoryDOTstat": "inactive_file 500000\n",
            f"{outer}__memoryDOTevents": "oom 1\noom_kill 1\n",
        },
    )
    assert meter.limit == 4_000_000
    assert meter.measure() == (2_500_000, 4_000_000)


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    meter = kernel(
        tmp_path,
        proc__self__cgroup="4:memory:/\n",
        sys__fs__cgroup__memory__memoryDOTlimit_in_bytes="9223372036854771712\n",
    )
    assert meter.limit == 8000 * KB


def test_a_process_uses_what_it_shares_with_nobody() -> None:
    code = "held = b'x' * 50_000_000; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 50_000_000 <= own_memory(process.pid) < 100_000_000
        process.communicate(b"\n")
    assert own_memory(process.pid) == 0


# -- whom a node ends


def looking(node: NodeMachine) -> NodeMachine:
    """From now on it looks at its memory."""
    node.memory.look_at = 0.0
    return node


def full(*workers: WorkerMemory) -> MemoryMeasured:
    """All is used."""
    return MemoryMeasured(GB, GB, workers)


def test_nothing_is_measured_while_nothing_runs() -> None:
    node = looking(ready(2))
    assert tell(node, now=100.0) == []
    assert node.memory.deadline() is None


def test_a_node_looks_the_more_often_the_fuller_it_is() -> None:
    node = looking(ready(1))
    assert hear(node, ME, requested(1)) == [granted(1, W1), MeasureMemory()]
    tell(node, MemoryMeasured(GB // 2, 1000 * GB))
    assert node.memory.deadline() == 1.0
    tell(node, MemoryMeasured(3 * GB, 4 * GB), now=1.0)
    assert node.memory.deadline() == pytest.approx(1.0 + 0.8 * GB / Limits().memory_growth_bytes)
    tell(node, MemoryMeasured(94, 100), now=2.0)
    assert node.memory.deadline() == 2.0 + Limits().memory_look_s
    tell(node, MemoryMeasured(0, 0), now=2.5)  # a kernel that tells nothing


def working(*requests: bool) -> NodeMachine:
    """Workers `W1`, `W2`, … leased for calls that may run again or may not; memory is full."""
    node = ready(len(requests), cpus=len(requests))
    for number, may_retry in enumerate(requests):
        hear(node, ME, requested(1, shape_id=number, may_retry=may_retry))
    looking(node)
    assert tell(node) == [MeasureMemory()]
    names = (W1, W2, W3)[: len(requests)]
    assert tell(node, full()) == [MeasureMemory(tuple(map(me_of, names)))]
    return node


MB = 1_000_000


@pytest.mark.parametrize(
    ("requests", "found", "chosen"),
    [
        # the youngest call that may run again, though others are larger, or younger and may not
        ((True, True), [(300 * MB, 1.0), (200 * MB, 2.0)], W2),
        ((True, False), [(300 * MB, 1.0), (200 * MB, 2.0)], W1),
        ((False, False), [(300 * MB, 2.0), (200 * MB, 1.0)], W1),
        # first who runs nothing
        ((True, True), [(300 * MB, 0.0), (200 * MB, 2.0)], W1),
        # who is small is left alone
        ((True, True), [(300 * MB, 1.0), (29 * MB, 2.0)], W1),
        ((True, True), [(9 * MB, 1.0), (9 * MB, 2.0)], None),
        ((True, True), [], None),
    ],
)
def test_whom_a_full_node_ends(
    requests: tuple[bool, ...], found: list[tuple[int, float]], chosen: bytes | None
) -> None:
    node = working(*requests)
    rows = zip((W1, W2, W3), found, strict=False)
    memory = [WorkerMemory(me_of(one), rss, since) for one, (rss, since) in rows]
    expected = [StopWorker(me_of(chosen))] if chosen is not None else []  # type: ignore[arg-type]
    assert tell(node, full(*memory)) == expected


def test_an_actor_goes_after_calls_that_may_run_again_and_before_those_that_may_not() -> None:
    for may_retry, chosen in ((True, W2), (False, W1)):
        node = ready(2)
        hear(node, CONTROL, PlaceActor(1, actor_spec(5, restarts_max=1)))
        hear(node, W1, ActorStarted(a(5), 1, W1, 1))
        hear(node, ME, requested(1, may_retry=may_retry))
        looking(node)
        tell(node)
        tell(node, full())
        memory = [WorkerMemory(me_of(one), 300 * MB, 1.0) for one in (W1, W2)]
        assert tell(node, full(*memory)) == [StopWorker(me_of(chosen))]


def test_the_next_is_ended_only_when_the_one_before_is_gone_and_its_caller_knows_why() -> None:
    node = working(True, True)
    memory = [WorkerMemory(me_of(one), 300 * MB, 1.0) for one in (W1, W2)]
    assert tell(node, full(*memory)) == [StopWorker(me_of(W1))]
    assert tell(node, full()) == []
    crash = Crash(signal=9, rss=300 * MB, limit=GB)
    assert tell(node, killed(W1))[0] == Send(ME, WorkerDied(W1, (), 0, crash))
    assert isinstance(tell(node, full())[0], MeasureMemory)


def test_who_is_ended_by_the_kernel_for_lack_of_memory_ran_out_of_memory() -> None:
    node = ready(1)
    hear(node, ME, requested(1))
    exited = msgspec.structs.replace(killed(W1), rss=7, memory_limit=8)
    crash = Crash(signal=9, rss=7, limit=8)
    assert tell(node, exited)[0] == Send(ME, WorkerDied(W1, (), 0, crash))


# -- what callers do


def lost(client: ClientMachine, lease: int, now: float) -> list[object]:
    """The worker of that lease was ended to save memory while its first call ran."""
    crash = Crash(signal=9, rss=5, limit=8)
    died = WorkerDied(W1, (Progress(me_of(ME), lease, 0, False),), 0, crash)
    assert hear(client, NODE, died, now) == [Drain(W1)]
    return [*tell(client, Drained(W1), now=now)]


def test_a_call_that_lost_its_worker_to_memory_rests_longer_each_time_and_keeps_its_retries() -> (
    None
):
    client = new_client(oom_retries_max=2, oom_retry_s=1.0, oom_retry_max_s=1.5)
    leased(client, W1)
    tell(client, submit(1, retries=1))
    lost(client, 1, now=10.0)
    call = client.calls.pending[c(1)]
    assert (call.attempt, client.deadline()) == (2, 11.0)
    assert tell(client, now=10.9) == []
    assert tell(client, now=11.0) == [Send(NODE, requested(1))]
    hear(client, NODE, LeaseGranted(0, 2, W1), 11.0)
    lost(client, 2, now=12.0)
    assert (call.attempt, client.deadline()) == (3, 13.5)
    tell(client, now=13.5)
    hear(client, NODE, LeaseGranted(0, 3, W1), 13.5)
    failure = crash_failure(Crash("f", 3, None, 9, rss=5, limit=8))
    assert failure.kind == "out_of_memory"
    assert lost(client, 3, now=14.0)[0] == Resolve(o(1), failure)
    assert client.tasks.memory_deaths == {}


def test_a_call_with_one_attempt_has_no_more_after_a_loss_to_memory() -> None:
    client = new_client()
    leased(client, W1, may_retry=False)
    tell(client, submit(1, retries=0))
    assert isinstance(lost(client, 1, now=1.0)[0], Resolve)


# -- crash loops


def test_single_crashes_cost_nothing_and_loops_are_slowed_down() -> None:
    crashes = Crashes(replace(Limits(), worker_crashes_max=3, worker_crash_forget_s=10.0))
    assert crashes.admit(4, 0.0) == 4
    crashes.add(0.0)
    crashes.add(0.0)
    assert crashes.admit(4, 0.0) == 4
    crashes.add(0.0)
    assert crashes.admit(4, 0.0) == 0
    assert crashes.dues() == [10.0]
    assert crashes.admit(4, 10.0) == 4
    assert crashes.dues() == []
    for _ in range(100):
        crashes.add(10.0)
    assert crashes.admit(1, 10.0) == 0
    assert crashes.dues() == [50.0]  # a storm is forgotten in bounded time
    assert crashes.admit(0, 10.0) == 0
    assert crashes.dues() == []


def test_a_node_whose_workers_crash_again_and_again_forks_no_storm() -> None:
    node = ready(1, cpus=1, worker_crashes_max=1, worker_crash_forget_s=5.0)
    hear(node, ME, requested(1))
    assert not [one for one in tell(node, killed(W1)) if isinstance(one, StartWorker)]
    assert node.deadline() == 5.0
    assert tell(node, now=5.0) == [StartWorker(me_of(W2))]


def test_an_end_that_was_asked_for_is_no_crash() -> None:
    node = ready(1, cpus=1, worker_crashes_max=1)
    hear(node, ME, requested(1))
    hear(node, ME, ReturnLease(1))
    node.staff.workers[me_of(W1)].is_doomed = True
    tell(node, killed(W1))
    assert node.scheduling.crashes.admit(1, 0.0) == 1
