"""What processes cost: CPU time and memory of this one and all its descendants, from /proc.

CPU is read from each process's own clock in nanoseconds; ticks of 10 ms would be too coarse for
calls of 10 µs. The clock covers all threads, also those that have ended. Needs nothing but Python,
so that peers can be measured in environments of their own.
"""

import os
import time
from pathlib import Path

PROC = Path("/proc")


def descendants(root: int | None = None) -> list[int]:
    """The processes below one, this one by default, children of children included."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (parent := _parent_of(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, unseen = [], [os.getpid() if root is None else root]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return sorted(found)


def _parent_of(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
        return None


def cpu_s(pid: int) -> float:
    """User and system time of a process, of all its threads; 0 for one that ended just now."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's number of another process's clock
    except OSError:
        return 0.0


class CpuMeter:
    """CPU time spent by this process and its descendants since the meter was made.

    A process that ends in between takes its time with it: no row that reads a meter ends one.
    """

    def __init__(self) -> None:
        self._before = {pid: cpu_s(pid) for pid in (os.getpid(), *descendants())}

    def read(self) -> float:
        return sum(cpu_s(pid) - self._before.get(pid, 0.0) for pid in (os.getpid(), *descendants()))


def thread_cpu_s(pid: int) -> dict[str, float]:
    """CPU time by thread of a process: ``name/tid`` → seconds."""
    spent = {}
    for thread in (PROC / str(pid) / "task").iterdir():
        name = (thread / "comm").read_text().strip()
        spent[f"{name}/{thread.name}"] = int((thread / "schedstat").read_text().split()[0]) / 1e9
    return spent


def pss_mb(pids: list[int]) -> float:
    """Memory of processes in MB; a page that n of them share counts 1/n in each."""
    total_kb = 0
    for pid in pids:
        try:
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total_kb += sum(
            int(row.split()[1]) for row in rollup.splitlines() if row.startswith("Pss:")
        )
    return total_kb / 1024
