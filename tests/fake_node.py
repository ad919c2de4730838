"""A node that is nothing but its processes: scenarios of test_zygote, each a process of its own.

A test runs ``python -c 'from tests.fake_node import main; main()' <scenario>``; the scenario starts
real workers, prints what it saw as one line of JSON and ends in order. What a worker is to do
stands in a file of the runtime directory, named after its incarnation.
"""

import atexit
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fabric.config import Limits
from fabric.core.events import WorkerExited
from fabric.ids import Incarnation, address
from fabric.runtime.directories import remove_runtime_directory, runtime_directory
from fabric.runtime.words import Word
from fabric.runtime.workers import WorkerProcesses
from fabric.runtime.zygote import WorkerLaunch, WorkerMain, start_zygote

PATIENCE_S = 20.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll, up to a deadline that a loaded machine meets too."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true")
        time.sleep(0.002)


def is_running(pid: int) -> bool:
    """Whether that process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class FakeNode:
    """Zygote, processes and a runtime directory."""

    def __init__(self, worker_main: WorkerMain | None = None) -> None:
        self.zygote = start_zygote(worker_main or run_job)
        self.directory = runtime_directory("test")
        self.workers = WorkerProcesses(
            self.zygote,
            node=address("n", bytes(8)),
            runtime_directory=self.directory,
            cluster="test",
            log_directory=os.path.join(self.directory, "logs"),
            limits=Limits(),
            environment={"FABRIC_TEST_GREETING": "hello"},
        )
        self.ends: dict[Incarnation, WorkerExited] = {}

    def path(self, worker: Incarnation, kind: str) -> Path:
        return Path(self.directory, f"{worker.hex()}.{kind}")

    def start(self, job: str) -> Incarnation:
        worker = Incarnation(os.urandom(8))
        self.path(worker, "job").write_text(job)
        self.workers.start(worker)
        return worker

    def hear(self) -> None:
        self.ends.update((end.worker, end) for end in self.workers.ended())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        def heard() -> bool:
            self.hear()
            return condition()

        wait_until(heard)

    def end_of(self, worker: Incarnation) -> WorkerExited:
        self.wait_until(lambda: worker in self.ends)
        return self.ends[worker]

    def said(self, worker: Incarnation) -> dict[str, object]:
        """What the worker's job wrote down, once it has."""
        self.wait_until(self.path(worker, "said").exists)
        said: dict[str, object] = json.loads(self.path(worker, "said").read_text())
        return said

    def close(self, grace_s: float = 0.0) -> None:
        self.workers.close(grace_s)
        remove_runtime_directory(self.directory)


# --------------------------------------------------------------------------------- what workers do


def run_job(launch: WorkerLaunch) -> None:
    """The main of these workers."""
    place = Path(launch.runtime_directory, launch.incarnation.hex())
    JOBS[place.with_suffix(".job").read_text()](launch)


def say(launch: WorkerLaunch, **words_said: object) -> None:
    """Write it down at once and whole."""
    place = Path(launch.runtime_directory, launch.incarnation.hex())
    place.with_suffix(".half").write_text(json.dumps(words_said))
    place.with_suffix(".half").rename(place.with_suffix(".said"))


def idle(launch: WorkerLaunch) -> None:
    say(launch, pid=os.getpid())
    while True:
        signal.pause()


def look_around(launch: WorkerLaunch) -> None:
    print("to the output")
    print("to the errors", file=sys.stderr)
    os.system("echo from a child")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    say(
        launch,
        pid=os.getpid(),
        parent=os.getppid(),
        group=os.getpgrp(),
        session=os.getsid(0),
        name=Path("/proc/self/comm").read_text().strip(),
        ignores_interrupts=bool(int(status["SigIgn"], 16) & 1 << signal.SIGINT - 1),
        blocked=int(status["SigBlk"], 16),
        caught=[number for number in signal.valid_signals() if callable(signal.getsignal(number))],
        descriptors=sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)),
        greeting=os.environ["FABRIC_TEST_GREETING"],
        chance=random.random(),
        has_numpy="numpy" in sys.modules,
        node=launch.node,
        beat_s=launch.limits.beat_s,
    )


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def exit_with_3(launch: WorkerLaunch) -> None:
    sys.exit(3)


def exit_with_words(launch: WorkerLaunch) -> None:
    sys.exit("no more")


def fail(launch: WorkerLaunch) -> None:
    print("\n".join(f"line {number}" for number in range(100)), file=sys.stderr)
    raise LookupError("nothing there")


def exit_in_order(launch: WorkerLaunch) -> None:
    atexit.register(print, "last words")


def crash(launch: WorkerLaunch) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def run_calls(launch: WorkerLaunch) -> None:
    word = Word(launch.words_path, launch.slot)
    for number in range(7):
        word.start(b"caller-1", 5, number)
        word.finish()
    word.start(b"caller-2", 6, 12)
    idle(launch)


def leave_children(launch: WorkerLaunch) -> None:
    """A background job, a child in a group of its own, and a daemon that nobody is related to."""
    sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
    shell = subprocess.run(
        f"{sys.executable} -c 'import time; time.sleep(1000)' >/dev/null & echo $!",
        shell=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    with_group = subprocess.Popen(sleep, process_group=0)
    daemon = daemonise()
    say(launch, pids=[int(shell.stdout), with_group.pid, daemon])
    while True:
        signal.pause()


def daemonise() -> int:
    """Fork twice with a session of its own in between; the daemon's own child is in it too."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.fork()
            os.write(writing, f"{os.getpid()}\n".encode())
            time.sleep(1000)
        os._exit(0)
    os.wait()
    told = b""
    while told.count(b"\n") < 2:
        told += os.read(reading, 100)
    return int(told.split()[0])


JOBS: dict[str, Callable[[WorkerLaunch], None]] = {
    job.__name__: job
    for job in (
        idle,
        look_around,
        exit_with_3,
        exit_with_words,
        fail,
        exit_in_order,
        crash,
        run_calls,
        leave_children,
    )
} | {"nothing": lambda launch: None}


# --------------------------------------------------------------------------------------- scenarios


def looking_around() -> object:
    node = FakeNode()
    looking = [node.start("look_around") for _ in range(2)]
    said = [node.said(worker) for worker in looking]
    ends = [node.end_of(worker) for worker in looking]
    log_path = os.path.join(node.directory, "logs", f"worker-{looking[0].hex()}")
    logs = [Path(log_path + ".out"), Path(log_path + ".err")]
    seen = {
        "node": os.getpid(),
        "session": os.getsid(0),
        "zygote_name": Path(f"/proc/{node.zygote.pid}/comm").read_text().strip(),
        "said": said,
        "exit_codes": [end.exit_code for end in ends],
        "logs": [log.read_text() for log in logs],
        "log_mode": oct(logs[0].stat().st_mode & 0o777),
    }
    node.close()
    return seen


def ending() -> object:
    node = FakeNode()
    jobs = ("nothing", "exit_with_3", "exit_with_words", "fail", "exit_in_order", "crash")
    started = {job: node.start(job) for job in jobs}
    ends = {job: node.end_of(worker) for job, worker in started.items()}
    node.close()
    return {
        job: [end.exit_code, end.signal, (end.log_tail or end.reason)] for job, end in ends.items()
    }


def killing() -> object:
    node = FakeNode()
    worker = node.start("run_calls")
    node.said(worker)
    node.workers.kill(worker)
    end = node.end_of(worker)
    after = node.start("idle")
    node.said(after)
    node.workers.kill(after, signal.SIGTERM)
    unborn = node.start("idle")
    node.workers.kill(unborn)
    ends = [node.end_of(each) for each in (after, unborn)]
    node.workers.kill(unborn)  # gone already: nothing happens
    node.close()
    return {
        "killed": [end.exit_code, end.signal, end.progress],
        "after": [ends[0].signal, ends[0].progress],
        "unborn": ends[1].signal,
        "slots": os.path.exists(os.path.join(node.directory, "words")),
    }


def leaving_children() -> object:
    spared = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    node = FakeNode()
    first, second = node.start("leave_children"), node.start("leave_children")
    pids = [pid for worker in (first, second) for pid in list_of(node.said(worker)["pids"])]
    before = [is_running(pid) for pid in pids]
    node.workers.kill(first)
    node.end_of(first)
    node.wait_until(lambda: not any(is_running(pid) for pid in pids[:3]))
    between = [is_running(pid) for pid in [*pids, spared.pid]]
    node.close()
    after = [is_running(pid) for pid in [*pids, spared.pid]]
    spared.kill()
    spared.wait()
    return {"before": before, "between": between, "after": after, "children": children()}


def list_of(value: object) -> list[int]:
    assert isinstance(value, list)
    return value


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def losing_the_zygote() -> object:
    """Killed while it has work; twice, the second time as a program."""
    node = FakeNode()
    old = node.start("idle")
    node.said(old)
    pids, ends = [node.zygote.pid], []
    for _ in range(2):
        os.kill(node.zygote.pid, signal.SIGSTOP)
        waiting = [node.start("look_around") for _ in range(3)]
        os.kill(node.zygote.pid, signal.SIGKILL)
        ends += [node.end_of(worker).exit_code for worker in waiting]
        pids.append(node.zygote.pid)
    said = node.said(waiting[0])
    is_old_alive = is_running(node.workers.pid(old) or 0)
    node.close()
    return {
        "zygotes": len(set(pids)),
        "ends": ends,
        "said": said,
        "is_old_alive": is_old_alive,
        "children": children(),
        "node": os.getpid(),
    }


def losing_a_zygote_that_cannot_live() -> object:
    """What it was forked with cannot be imported: the one started by exec dies at once."""
    node = FakeNode(lambda launch: run_job(launch))
    node.end_of(node.start("nothing"))
    os.kill(node.zygote.pid, signal.SIGKILL)
    ends = [node.end_of(node.start("nothing")) for _ in range(2)]
    node.close()
    return [[end.exit_code, end.signal, (end.log_tail or end.reason)] for end in ends]


def failing_to_fork() -> object:
    node = FakeNode()
    node.end_of(node.start("nothing"))
    limits = resource.prlimit(node.zygote.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.zygote.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
    refused = node.end_of(node.start("nothing"))
    resource.prlimit(node.zygote.pid, resource.RLIMIT_NOFILE, limits)
    later = node.end_of(node.start("nothing"))
    node.workers._environment["LARGE"] = "x" * 200_000
    too_large = node.end_of(node.start("nothing"))
    node.close()
    return [
        [end.exit_code, end.signal, (end.log_tail or end.reason)]
        for end in (refused, later, too_large)
    ]


def being_born_while_others_die() -> object:
    """Sweeps run all the time; none may take a newborn for a stranger."""
    node = FakeNode()
    ends = []
    for _ in range(5):
        started = [node.start("nothing") for _ in range(10)]
        ends += [node.end_of(worker) for worker in started]
    node.close()
    return sorted(
        {(end.exit_code, end.signal, (end.log_tail or end.reason)) for end in ends}, key=str
    )


def forking_with_threads() -> object:
    import threading

    asleep = threading.Event()
    thread = threading.Thread(target=asleep.wait)
    thread.start()
    try:
        start_zygote(run_job)
    except RuntimeError as error:
        return str(error)
    finally:
        asleep.set()
        thread.join()
    return "it forked"


def descriptors_over_time() -> object:
    """How many descriptors are open before, after, and after the end."""
    before = len(os.listdir("/proc/self/fd"))
    node = FakeNode()
    node.end_of(node.start("nothing"))
    first = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        node.end_of(node.start("nothing"))
    last = len(os.listdir("/proc/self/fd"))
    node.close()
    return {"grown": last - first, "left": len(os.listdir("/proc/self/fd")) - before}


def ending_in_time() -> object:
    """Workers that are told to end do so by themselves within the grace."""
    node = FakeNode()
    stubborn = node.start("idle")
    node.said(stubborn)
    quick = node.start("nothing")
    ends = {end.worker: end for end in node.workers.close(0.5)}
    remove_runtime_directory(node.directory)
    return [[ends[worker].exit_code, ends[worker].signal] for worker in (quick, stubborn)]


def waiting_for_death() -> object:
    """Tell who is there, then hang until killed."""
    node = FakeNode()
    workers = [node.start("idle") for _ in range(2)]
    pids = [node.said(worker)["pid"] for worker in workers]
    print(json.dumps({"directory": node.directory, "pids": [node.zygote.pid, *pids]}), flush=True)
    while True:
        signal.pause()


SCENARIOS: dict[str, Callable[[], object]] = {
    scenario.__name__: scenario
    for scenario in (
        looking_around,
        ending,
        killing,
        leaving_children,
        losing_the_zygote,
        losing_a_zygote_that_cannot_live,
        failing_to_fork,
        being_born_while_others_die,
        forking_with_threads,
        descriptors_over_time,
        ending_in_time,
        waiting_for_death,
    )
}


def main() -> None:
    """Play the scenario named on the command line."""
    print(json.dumps(SCENARIOS[sys.argv[1]](), default=str))
