"""The node's process: the loop around `NodeMachine`, and its hands.

It forks workers through the zygote, watches processes by pidfd, and makes, recycles and unlinks the
files of the store. It decides nothing.
"""

import errno
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from fabric.core.effects import (
    CreateSegment,
    DrainOutput,
    Effect,
    Exit,
    KillRunning,
    MeasureMemory,
    RecycleSegment,
    StartWorker,
    StopWorker,
    UnlinkSegment,
    WatchProcess,
)
from fabric.core.endpoint import Endpoint
from fabric.core.events import (
    MemoryMeasured,
    OutputDrained,
    ProcessEnded,
    SegmentFailed,
    SegmentRecycled,
    ShutDown,
)
from fabric.core.node.node import NodeMachine
from fabric.ids import Address, Incarnation
from fabric.runtime import sockets
from fabric.runtime.loop import START_GRACE_S, Loop
from fabric.runtime.poke import Poke
from fabric.runtime.segments import SegmentFiles
from fabric.runtime.settings import LOGS, FabricSettings, write_atomically
from fabric.runtime.worker import main as worker_main
from fabric.runtime.workers import WorkerProcesses
from fabric.runtime.zygote import start_zygote

CLOSE_GRACE_S = 0.5
"""Workers get this long to end by themselves when the node does."""


class NodeProcess:
    """The shell of one node."""

    def __init__(self, settings: FabricSettings, control_pid: int) -> None:
        self.settings = settings
        self.control_pid = control_pid
        self.exit_reason: str | None = None
        self.is_in_order = False
        """It ends because somebody wants it to."""
        # before there is a thread or a context
        zygote = start_zygote(worker_main, settings.node, (control_pid,))
        self.context = sockets.new_context()
        self.files = SegmentFiles(settings.store_directory)
        self.workers = WorkerProcesses(
            zygote,
            node=settings.node,
            runtime_directory=settings.runtime_directory,
            cluster=settings.cluster,
            log_directory=os.path.join(settings.runtime_directory, LOGS),
            limits=settings.limits,
            environment={"FABRIC_STORE": settings.store_directory},
        )
        self.machine = NodeMachine(
            settings.node,
            settings.control,
            settings.limits,
            random.Random(os.urandom(16)),
            resources=settings.resources,
            store_prefix=settings.store_prefix,
            store_bytes_max=settings.store_bytes_max,
            workers_kept=settings.workers_kept,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self.endpoint = Endpoint(
            settings.node, self.machine, cluster=settings.cluster, limits=settings.limits
        )
        self.loop = Loop(
            self.endpoint,
            self.context,
            settings.runtime_directory,
            clock=time.monotonic,
            perform=self.perform,
        )
        self._poke = Poke()
        self.loop.watch(self._poke.fd, self._poke.down)
        self.loop.dial(settings.control, START_GRACE_S)
        self.loop.subscribe(settings.control)
        self.loop.watch(self.workers.fileno(), self._hear_workers)
        self.loop.watch(self.workers.output.fileno(), self._hear_output)
        self._watch_pid(control_pid, self._on_control_end)
        if settings.driver_pid:
            self._watch_pid(settings.driver_pid, self._on_driver_end)
            if os.getppid() != settings.driver_pid:  # dead before; the number is another's, maybe
                self._on_driver_end()

    def run(self) -> None:
        """Turn until told to end."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if self.settings.address_path:
            self._announce()
        while self.exit_reason is None:
            self.loop.turn(self.workers.output.patience_s(3600.0))
            self.workers.output.tell_unfinished()
            self._tell_written()
        print(f"node {self.settings.node} ends: {self.exit_reason}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the workers, and leave nothing behind."""
        deadline = time.monotonic() + CLOSE_GRACE_S
        self.loop.tell(ShutDown())
        self.loop.turn(0.0)
        while self._is_leaving() and time.monotonic() < deadline:
            self.loop.turn(deadline - time.monotonic())
        self.workers.close(0.0)
        self.loop.close(0.1)
        self.context.destroy(linger=100)
        self.files.close()

    def _is_leaving(self) -> bool:
        """Workers still end, or a control store that will be read again has not counted us out."""
        is_told = not self.endpoint.unacknowledged(self.settings.control)
        return len(self.workers) > 0 or not (is_told or self.settings.driver_pid)

    def perform(self, effect: Effect) -> None:
        """Do what the machine asked for."""
        match effect:
            case StartWorker(worker):
                self.workers.start(worker)
            case StopWorker(worker):
                self.workers.kill(worker)
            case KillRunning(worker, lease, number):
                self.workers.kill_running(worker, lease, number)
            case CreateSegment(segment, nbytes):
                self._create_segment(segment, nbytes)
            case RecycleSegment(segment, generation):
                is_free = self.files.try_recycle(segment, generation)
                self.loop.tell(SegmentRecycled(segment, is_free))
            case UnlinkSegment(segment):
                self.files.unlink(segment)
            case MeasureMemory(workers):
                used, limit = self.workers.memory.measure()
                self.loop.tell(MemoryMeasured(used, limit, self.workers.memory_of(workers)))
            case DrainOutput(request, workers):
                self.workers.output.hear_all(workers)
                self._tell_written()
                self.loop.tell(OutputDrained(request))
            case WatchProcess(client, pid):
                self._watch_client(client, pid)
            case Exit(reason):
                self.exit_reason = reason
            case _:
                raise TypeError(f"a node cannot perform {effect!r}")

    def _create_segment(self, segment: str, nbytes: int) -> None:
        try:
            self.files.create(segment, nbytes)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.loop.tell(SegmentFailed(segment))

    def _hear_workers(self) -> None:
        exits = self.workers.ended()
        self._tell_written()
        for exited in exits:
            self.loop.tell(exited)
            self.loop.hangup(Address("w:" + exited.worker.hex()))

    def _hear_output(self) -> None:
        self.workers.output.hear()
        self._tell_written()

    def _tell_written(self) -> None:
        for written in self.workers.output.take():
            self.loop.tell(written)

    def _watch_client(self, client: Incarnation, pid: int) -> None:
        def ended() -> None:
            self.loop.tell(ProcessEnded(client))

        self._watch_pid(pid, ended)

    def _watch_pid(self, pid: int, ended: Callable[[], None]) -> None:
        """Call that once when the process ends; at once if it has."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            ended()
            return

        def readable() -> None:
            self.loop.unwatch(pidfd)
            os.close(pidfd)
            ended()

        self.loop.watch(pidfd, readable)

    def _on_driver_end(self) -> None:
        self.exit_reason = "its driver has ended"
        self.is_in_order = True

    def _on_control_end(self) -> None:
        self.exit_reason = "its control store has ended"

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.exit_reason = "it was told to end"
        self.is_in_order = True
        self._poke.up()

    def _announce(self) -> None:
        settings = self.settings
        write_atomically(
            settings.address_path,
            {
                "cluster": settings.cluster,
                "node": settings.node,
                "control": settings.control,
                "runtime_directory": settings.runtime_directory,
                "store_directory": settings.store_directory,
                "state_directory": os.path.dirname(settings.journal_path),
                "pids": {"node": os.getpid(), "control": self.control_pid},
                "started_at": time.time(),
            },
        )


def run_node(settings: FabricSettings, control_pid: int) -> bool:
    """Be the node until it ends; whether somebody wanted that."""
    node = NodeProcess(settings, control_pid)
    try:
        node.run()
    finally:
        node.close()
    return node.is_in_order
