"""The node's worker processes: started through the zygote, watched by pidfd, gone without a trace.

One epoll descriptor covers the zygote's replies and the end of every worker; the node's loop
watches that one and calls `ended`. A worker's end is told with its exit status, its shared word and
the last lines of its log. What its user code left running (its process group, daemonised
grandchildren) is killed with it: a worker is the subreaper of what it starts, so strangers appear
among the node's children only when a worker has died.

Nothing here decides anything: who is started or stopped is said by the node's machine. All calls
belong to the node's main thread.
"""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fabric.config import Limits
from fabric.core.events import WorkerExited, WorkerMemory
from fabric.ids import Address, Incarnation
from fabric.runtime.memory import KB, MemoryMeter, own_memory
from fabric.runtime.output import WorkerOutput
from fabric.runtime.words import Words, known_from
from fabric.runtime.zygote import WorkerLaunch, ZygoteChannel

LOG_TAIL_LINES = 20
LOG_TAIL_BEFORE_CRASH = 5
LOG_TAIL_BYTES = 16 * 1024
LOG_LINE_CHARS = 200
CRASH = "Fatal Python error: "
BELOW_USER_CODE = '/fabric/runtime/execution.py", line '
"""Frames from here on are the worker's own."""

VICTIM_SHARE = 0.05
"""Who used less of the memory than this was not ended by the kernel for the lack of it."""

KILL_PATIENCE_S = 5.0
"""What was killed is gone after this long, or stuck in the kernel."""

STOP_PATIENCE_S = 0.1
"""A process that was told to stand still does so after this long, or is stuck in the kernel."""

log = logging.getLogger("fabric.workers")


@dataclass(slots=True)
class WorkerProcess:
    """One worker. Until the zygote has answered there is no pid."""

    launch: WorkerLaunch
    pid: int = 0
    pidfd: int = -1
    signal_due: int = 0
    """A signal that was sent before there was a process."""
    is_killed: bool = False
    """By this node."""


class Kin(NamedTuple):
    """A child of this process, as the kernel shows it."""

    pid: int
    group: int


class WorkerProcesses:
    """The table of worker processes of one node."""

    def __init__(
        self,
        zygote: ZygoteChannel,
        *,
        node: Address,
        runtime_directory: str,
        cluster: str,
        log_directory: str,
        limits: Limits,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._zygote = zygote
        self._words = Words(os.path.join(runtime_directory, "words"))
        self.output = WorkerOutput(log_directory, limits, self._words.name)
        self._node, self._cluster, self._limits = node, cluster, limits
        self._runtime_directory = runtime_directory
        self._environment = dict(environment or {})
        self._workers: dict[Incarnation, WorkerProcess] = {}
        self._by_pidfd: dict[int, WorkerProcess] = {}
        self._strangers: dict[int, int] = {}  # pidfd -> pid of what a dead worker left, killed
        self._failed: list[WorkerExited] = []
        self.memory = MemoryMeter()
        self._victim_bytes = self.memory.limit * VICTIM_SHARE
        self._spared = frozenset(kin.pid for kin in _children())  # the control store, say
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(zygote, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when `ended` has something to do."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._workers)

    def pid(self, incarnation: Incarnation) -> int | None:
        """The pid of a living worker; None while it is being started and after its end."""
        worker = self._workers.get(incarnation)
        return worker.pid if worker is not None and worker.pid else None

    def memory_of(self, incarnations: Sequence[Incarnation]) -> tuple[WorkerMemory, ...]:
        """What the end of each of these would give back, and how long it has run what it runs."""
        found = []
        for incarnation in incarnations:
            worker = self._workers.get(incarnation)
            if worker is not None and worker.pid:
                began = self._words.started_at(worker.launch.slot)
                found.append(WorkerMemory(incarnation, own_memory(worker.pid), began))
        return tuple(found)

    # ------------------------------------------------------------------------------ start and kill

    def start(self, incarnation: Incarnation) -> None:
        """Start that worker. If it cannot be, `ended` tells so like any other end."""
        if self._zygote.is_over:
            self._restart_zygote()
        try:
            slot = self._words.allocate()
        except OSError as error:
            self._fail(incarnation, f"no memory for the worker's shared word: {error}")
            return
        try:
            pipes = self.output.open(incarnation, slot)
        except OSError as error:
            self.output.abandon(incarnation)
            self._words.release(slot)
            self._fail(incarnation, f"no pipes for the worker's output: {error}")
            return
        worker = WorkerProcess(self._launch(incarnation, slot, *pipes))
        self._workers[incarnation] = worker
        try:
            self._zygote.start_worker(worker.launch)
        except ValueError as error:
            self._give_up(worker, str(error))

    def kill(self, incarnation: Incarnation, number: int = signal.SIGKILL) -> None:
        """Send a signal to that worker, as soon as it exists; nothing happens if it has ended."""
        worker = self._workers.get(incarnation)
        if worker is None:
            return
        worker.is_killed = True
        if worker.pid == 0:
            worker.signal_due = number
            return
        with contextlib.suppress(ProcessLookupError):  # dead, and about to be found so
            signal.pidfd_send_signal(worker.pidfd, number)

    def kill_running(self, incarnation: Incarnation, lease: int, number: int) -> bool:
        """Kill that worker if it runs that very call; it stands still while its word is read.

        Otherwise it might begin its next call between the look and the blow.
        """
        worker = self._workers.get(incarnation)
        if worker is None or worker.pid == 0:
            return False
        with contextlib.suppress(ProcessLookupError):  # dead, and about to be found so
            signal.pidfd_send_signal(worker.pidfd, signal.SIGSTOP)
        _wait_until_stopped(worker.pidfd)
        is_running = any(
            (one.lease, one.number, one.finished) == (lease, number, False)
            for one in self._words.progress(worker.launch.slot)
        )
        if is_running:
            self.kill(incarnation)
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGCONT)
        return is_running

    def _launch(
        self, incarnation: Incarnation, slot: int, stdout_path: str, stderr_path: str
    ) -> WorkerLaunch:
        return WorkerLaunch(
            incarnation=incarnation,
            node=self._node,
            runtime_directory=self._runtime_directory,
            cluster=self._cluster,
            words_path=self._words.path,
            slot=slot,
            stdout_path=stdout_path,
            stderr_path=stderr_path,
            environment=self._environment,
            limits=self._limits,
        )

    def _fail(self, incarnation: Incarnation, reason: str) -> None:
        self._failed.append(WorkerExited(incarnation, None, None, (), reason=reason))
        os.eventfd_write(self._wake, 1)

    def _give_up(self, worker: WorkerProcess, reason: str) -> None:
        """That worker never began."""
        del self._workers[worker.launch.incarnation]
        self.output.abandon(worker.launch.incarnation)
        self._words.release(worker.launch.slot)
        self._fail(worker.launch.incarnation, reason)

    # ------------------------------------------------------------------------------------ the ends

    def ended(self) -> list[WorkerExited]:
        """Hear what happened: births, deaths, and a dead zygote. Returns the workers that ended."""
        self._hear_zygote()
        exits = []
        is_anyone_gone = False
        for number, _ in self._epoll.poll(0):
            if number == self._wake:
                os.eventfd_read(self._wake)
            elif number in self._strangers:
                is_anyone_gone |= self._reap_stranger(number)
            elif number in self._by_pidfd:
                exits.append(self._collect(self._by_pidfd.pop(number)))
        if exits or is_anyone_gone:
            self._sweep()
        if self._zygote.is_over and self._zygote.pid:
            self._replace_zygote()
        exits += self._failed
        self._failed = []
        return exits

    def _collect(self, worker: WorkerProcess) -> WorkerExited:
        """Reap a dead worker, with its process group, and free its slot."""
        # as long as the worker is not reaped, the number of its group cannot be anybody else's
        _kill_group(worker.pid)
        _, status, usage = os.wait4(worker.pid, 0)
        os.close(worker.pidfd)  # which also takes it out of the epoll set
        launch = worker.launch
        progress = self._words.progress(launch.slot)
        output_path, errors_path = self.output.close(launch.incarnation)
        self._words.release(launch.slot)
        del self._workers[launch.incarnation]
        is_exit = os.WIFEXITED(status)
        number = None if is_exit else os.WTERMSIG(status)
        rss = usage.ru_maxrss * KB
        is_foreign = number == signal.SIGKILL and not worker.is_killed
        is_of_memory = is_foreign and self.memory.has_killed() and rss > self._victim_bytes
        return WorkerExited(
            worker=launch.incarnation,
            exit_code=os.WEXITSTATUS(status) if is_exit else None,
            signal=number,
            progress=progress,
            log_tail=log_tail(errors_path) or log_tail(output_path),
            known_from=known_from(progress),
            pid=worker.pid,
            rss=rss,
            memory_limit=self.memory.limit if is_of_memory else 0,
        )

    # ---------------------------------------------------------------------------------- the zygote

    def _hear_zygote(self) -> None:
        for incarnation, outcome in self._zygote.replies():
            worker = self._workers[incarnation]
            if isinstance(outcome, str):
                self._give_up(worker, outcome)
            else:
                self._watch(worker, outcome)

    def _watch(self, worker: WorkerProcess, pid: int) -> None:
        """A worker was born: it is our child, so its number is its own until we reap it."""
        worker.pid, worker.pidfd = pid, os.pidfd_open(pid)
        self._by_pidfd[worker.pidfd] = worker
        self._epoll.register(worker.pidfd, select.EPOLLIN)
        if worker.signal_due:
            signal.pidfd_send_signal(worker.pidfd, worker.signal_due)

    def _replace_zygote(self) -> None:
        """The zygote died. Once it has proved that it can live, another takes over its work."""
        starting = [worker for worker in self._workers.values() if worker.pid == 0]
        if self._zygote.has_answered:
            self._restart_zygote()
            for worker in starting:
                self._zygote.start_worker(worker.launch)
        else:
            for worker in starting:
                self._give_up(worker, "the zygote died before it could fork; its errors say why")
            self._zygote.close()
        self._sweep()

    def _restart_zygote(self) -> None:
        log.warning("the zygote died and is replaced")
        self._zygote.restart()
        self._epoll.register(self._zygote, select.EPOLLIN)

    # ------------------------------------------------------------------------------- what was left

    def _sweep(self) -> None:
        """Kill every child that is nobody: what dead workers have left.

        The order makes it safe for workers that are just being born: a newborn stays in the
        zygote's group until its birth was reported. So who is outside of it when the children are
        listed, and still unknown when all replies have been read after that, was never a worker.
        """
        ours = (os.getpgrp(), self._zygote.pid)
        found = [kin for kin in _children() if kin.group not in ours]
        self._hear_zygote()
        workers = {worker.pid for worker in self._workers.values()}
        known = {*workers, *self._strangers.values(), *self._spared, self._zygote.pid}
        for kin in found:
            if kin.pid in known:
                continue
            os.kill(kin.pid, signal.SIGKILL)
            if kin.group not in workers:
                _kill_group(kin.group)
            pidfd = os.pidfd_open(kin.pid)
            self._strangers[pidfd] = kin.pid
            self._epoll.register(pidfd, select.EPOLLIN)

    def _reap_stranger(self, pidfd: int) -> bool:
        """Reap it; its own children have just become ours."""
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is None:
            return False
        del self._strangers[pidfd]
        os.close(pidfd)
        return True

    # ------------------------------------------------------------------------------------- the end

    def close(self, grace_s: float) -> list[WorkerExited]:
        """End everything: workers that were told to may end by themselves for ``grace_s``.

        Blocks until every process is gone; then the shared words go too.
        """
        if self._epoll.closed:
            return []
        exits = self._ends_until(time.monotonic() + grace_s)
        self._zygote.close()
        for worker in list(self._workers.values()):
            if worker.pid == 0:
                self._give_up(worker, "the node ended before the worker began")
            else:
                self.kill(worker.launch.incarnation)
        self._sweep()
        exits += self._ends_until(time.monotonic() + KILL_PATIENCE_S)
        if self._workers or self._strangers:
            stuck = [worker.pid for worker in self._workers.values()]
            log.warning("processes %s do not end", [*stuck, *self._strangers.values()])
        self._epoll.close()
        os.close(self._wake)
        self.output.end()
        self._words.close()
        return exits

    def _ends_until(self, deadline: float) -> list[WorkerExited]:
        """The ends until nobody is left, or until then."""
        exits = self.ended()
        while self._workers or self._strangers:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            self._epoll.poll(left_s)
            exits += self.ended()
        return exits


def _wait_until_stopped(pidfd: int) -> None:
    """Until no thread of it runs; one that is stuck in the kernel begins no call either."""
    deadline = time.monotonic() + STOP_PATIENCE_S
    options = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PIDFD, pidfd, options) is None and time.monotonic() < deadline:
        time.sleep(0.0005)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # a group of nobody
        os.killpg(group, signal.SIGKILL)


def _children() -> list[Kin]:
    """The children of all threads of this process, dead ones that nobody has reaped included.

    Children leave that list only when this process reaps them, so it is never read with gaps.
    """
    found = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children") as listing:
                found += [int(pid) for pid in listing.read().split()]
    except FileNotFoundError:  # a kernel without these lists, or a thread that has just ended
        import psutil

        found = [child.pid for child in psutil.Process().children()]
    return [Kin(pid, os.getpgid(pid)) for pid in found]


def log_tail(path: str) -> str:
    """The last lines of a log. A report of the interpreter's crash is shown from its beginning:

    it names the innermost frame first and ends in frames that nobody wants to see. What would make
    a terminal do something is left out.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:  # it wrote nothing
        return ""
    crashes = [at for at, line in enumerate(lines) if line.startswith(CRASH)]
    if crashes:
        first = max(0, crashes[-1] - LOG_TAIL_BEFORE_CRASH)
        below = (at for at in range(crashes[-1], len(lines)) if BELOW_USER_CODE in lines[at])
        lines = lines[first : next(below, len(lines))][:LOG_TAIL_LINES]
    return "\n".join(_plain(line) for line in lines[-LOG_TAIL_LINES:])


def _plain(line: str) -> str:
    text = "".join(each for each in line.expandtabs() if each.isprintable())
    return text if len(text) <= LOG_LINE_CHARS else text[:LOG_LINE_CHARS] + "…"
