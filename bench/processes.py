"""What processes cost: CPU time and memory of this one and all its descendants, from /proc.

CPU is read from each process's own clock in nanoseconds; ticks of 10 ms would be too coarse for
calls of 10 µs. The clock covers all threads, also those that have ended. Whoever measures adopts
orphans (`adopt_orphans`), so that daemons which were reparented are still below it. Needs nothing
but Python, so that peers can be measured in environments of their own.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

PROC = Path("/proc")
PR_SET_CHILD_SUBREAPER = 36
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def adopt_orphans() -> None:
    """From here on, what loses its parent below this process becomes its child."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def descendants(root: int | None = None) -> list[int]:
    """The processes below one, this one by default, children of children included."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (words := _stat_of(int(entry.name))):
            children.setdefault(int(words[1]), []).append(int(entry.name))
    found, unseen = [], [os.getpid() if root is None else root]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return sorted(found)


def _stat_of(pid: int) -> list[str]:
    """The words of a process's ``stat`` behind its name; none if it ended while we looked."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be reaped does not."""
    return _stat_of(pid)[:1] not in ([], ["Z"], ["X"])


def end_descendants(patience_s: float) -> list[str]:
    """Wait so long for everything below to end, then kill it; the commands of what was killed."""
    deadline = time.monotonic() + patience_s
    while (left := [pid for pid in descendants() if is_alive(pid)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    commands = [command_of(pid) for pid in left]
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it has just ended
    try:
        while os.waitpid(-1, 0 if left else os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # every one is reaped
    return commands


def command_of(pid: int) -> str:
    """The start of a process's command line."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return "ended"
    return " ".join(words)[:60].strip()


def cpu_s(pid: int) -> float:
    """User and system time of a process, of all its threads; 0 for one that ended just now."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's number of another process's clock
    except OSError:
        return 0.0


def _reaped_cpu_s(pid: int) -> float:
    """Time of a process's children that have ended and were waited for, in ticks."""
    words = _stat_of(pid)
    return (int(words[13]) + int(words[14])) / TICKS_PER_S if words else 0.0


def _all_cpu_s() -> float:
    return sum(cpu_s(pid) + _reaped_cpu_s(pid) for pid in (os.getpid(), *descendants()))


class CpuMeter:
    """CPU time spent by this process and everything below it since the meter was made."""

    def __init__(self) -> None:
        self._before = _all_cpu_s()

    def read(self) -> float:
        return _all_cpu_s() - self._before


def thread_cpu_s(pid: int) -> dict[str, float]:
    """CPU time by thread of a process: ``name/tid`` → seconds."""
    spent = {}
    for thread in (PROC / str(pid) / "task").iterdir():
        name = (thread / "comm").read_text().strip()
        spent[f"{name}/{thread.name}"] = int((thread / "schedstat").read_text().split()[0]) / 1e9
    return spent


def pss_mb(pids: list[int]) -> float:
    """Memory of processes in MB; a page that n of them share counts 1/n in each."""
    return sum(_memory_kb(PROC / str(pid) / "smaps_rollup", "Pss:") for pid in pids) / 1024


def rss_mb(pid: int) -> float:
    """Memory of one process in MB, shared pages in full."""
    return _memory_kb(PROC / str(pid) / "status", "VmRSS:") / 1024


def anonymous_mb(pid: int) -> float:
    """What it allocated itself: without mapped files and shared memory."""
    return _memory_kb(PROC / str(pid) / "status", "RssAnon:") / 1024


def peak_rss_mb(pid: int) -> float:
    """The most it has been since `forget_peak`."""
    return _memory_kb(PROC / str(pid) / "status", "VmHWM:") / 1024


def forget_peak() -> None:
    """The peak of this process's memory is what it has now."""
    (PROC / "self" / "clear_refs").write_text("5")


def _memory_kb(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(name))
