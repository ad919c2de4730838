"""What a test may have left behind, and how it is removed.

`Before` is taken when a test starts; `Before.leftovers` waits a bounded time for everything to go
and names what did not: processes (also those that were reparented: they carry the test's mark in
their environment), threads, descriptors, shared memory, runtime directories. `Before.remove` then
makes sure that the next test starts clean. It knows nothing of fabric's insides, only of what the
kernel shows.
"""

import os
import re
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "FABRIC_TEST_ID"
"""The environment variable that every process of a test inherits."""

SHARED_MEMORY = Path("/dev/shm")
MAPPED = re.compile(r"/dev/shm/(fb-[^/\s]+)")

PATIENCE_S = 3.0
"""What ends in order has ended after this long."""

POLL_S = 0.02


def processes_marked(mark: str) -> set[psutil.Process]:
    """This process's descendants, and everybody who was started under that mark."""
    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARK) == mark:
                found.add(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has just ended, or it is somebody else's
    return found


def threads_of_fabric() -> set[threading.Thread]:
    """The threads whose name says that fabric started them."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("fabric")}


def descriptors() -> set[tuple[int, str]]:
    """Open descriptors and what they are."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add((int(entry), os.readlink(f"/proc/self/fd/{entry}")))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def shared_memory() -> set[Path]:
    """Stores of any fabric of this user; each is a directory of segments."""
    return {path for path in SHARED_MEMORY.glob("fb-*") if _is_mine(path)}


def stores_of_others(mine: set[psutil.Process]) -> set[str]:
    """The stores in which processes of other fabrics map a segment or hold the lock now."""
    pids = {process.pid for process in mine} | {os.getpid()}
    used: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) in pids:
            continue
        try:
            used.update(MAPPED.findall(maps.read_text(errors="replace")))
            for descriptor in (maps.parent / "fd").iterdir():
                used.update(MAPPED.findall(os.readlink(descriptor)))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has just ended, or it is somebody else's
    return used


def runtime_entries(runtime_root: Path) -> set[Path]:
    """What stands in the directory that a test was given as its runtime root."""
    return set(runtime_root.iterdir()) if runtime_root.is_dir() else set()


def _is_mine(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except FileNotFoundError:
        return False


def _describe(process: psutil.Process) -> str:
    try:
        words = " ".join(process.cmdline()) or process.name()
        return f"process {process.pid} ({process.status()}, parent {process.ppid()}): {words[:120]}"
    except psutil.NoSuchProcess:
        return f"process {process.pid}: ended meanwhile"


@dataclass
class Before:
    """The state of things before a test."""

    mark: str
    runtime_root: Path
    processes: set[psutil.Process] = field(init=False)
    threads: set[threading.Thread] = field(init=False)
    descriptors: set[tuple[int, str]] = field(init=False)
    segments: set[Path] = field(init=False)

    def __post_init__(self) -> None:
        self.processes = processes_marked(self.mark)
        self.threads = threads_of_fabric()
        self.segments = shared_memory()
        self.descriptors = descriptors()

    def leftovers(self, patience_s: float = PATIENCE_S) -> list[str]:
        """A line for each thing that is still there when patience ends."""
        deadline = time.monotonic() + patience_s
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return left

    def remove(self) -> None:
        """Kill and delete what is left, so that it cannot disturb the next test."""
        doomed = processes_marked(self.mark) - self.processes
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(doomed, timeout=PATIENCE_S)
        for path in self._new_segments():
            shutil.rmtree(
                path, ignore_errors=True
            )  # its processes are gone, or somebody was faster
        shutil.rmtree(self.runtime_root, ignore_errors=True)

    def _left(self) -> list[str]:
        processes = processes_marked(self.mark) - self.processes
        return (
            [_describe(process) for process in sorted(processes, key=lambda each: each.pid)]
            + [f"thread {thread.name}" for thread in threads_of_fabric() - self.threads]
            + [f"descriptor {number}: {to}" for number, to in sorted(self._new_descriptors())]
            + [f"shared memory {path}" for path in sorted(self._new_segments())]
            + [f"runtime entry {path}" for path in sorted(runtime_entries(self.runtime_root))]
        )

    def _new_descriptors(self) -> set[tuple[int, str]]:
        return descriptors() - self.descriptors

    def _new_segments(self) -> set[Path]:
        new = shared_memory() - self.segments
        if not new:
            return new
        others = stores_of_others(processes_marked(self.mark))
        return {path for path in new if path.name not in others}
