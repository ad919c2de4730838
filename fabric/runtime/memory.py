"""How much memory there is, and how much of it is used: of this machine, or of a control group.

The node asks while calls run. What counts is where it is tightest: the kernel ends processes of a
group that is full, whatever the machine still has. Read from files of the kernel, versions 1 and 2
of control groups alike; pages that the kernel can drop at once count as free. Whom to end is
decided in `fabric.core.node.memory`.
"""

import os
from typing import NamedTuple

V1 = "sys/fs/cgroup/memory"
V2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
KB = 1024
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Group(NamedTuple):
    """A control group with a limit, and where it says what it uses."""

    limit: int
    used_path: str
    stat_path: str
    droppable: bytes
    """The line of the statistics with the pages that can be dropped."""
    kills_path: str


class MemoryMeter:
    """Measures; finds the groups when it is made."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._meminfo = os.path.join(root, "proc/meminfo")
        self._vmstat = os.path.join(root, "proc/vmstat")
        self.total = self._machine()[1]
        self._groups = [one for one in self._find() if one.limit < self.total]
        self._kills = self._count_kills()

    @property
    def limit(self) -> int:
        """What this process and its children may use at most, in bytes."""
        return min([self.total, *(one.limit for one in self._groups)])

    def measure(self) -> tuple[int, int]:
        """Bytes used, and the limit, where the share is largest."""
        found = [self._machine(), *(self._group(one) for one in self._groups)]
        return max(found, key=lambda one: one[0] / max(one[1], 1))

    def has_killed(self) -> bool:
        """Whether the kernel has ended a process for lack of memory since this was last asked."""
        before, self._kills = self._kills, self._count_kills()
        return self._kills > before

    def _machine(self) -> tuple[int, int]:
        figures = {}
        for line in _read(self._meminfo).splitlines():
            name, _, rest = line.partition(b":")
            figures[name] = int(rest.split()[0]) * KB
        total = figures.get(b"MemTotal", 0)
        return total - figures.get(b"MemAvailable", total), total

    def _group(self, group: Group) -> tuple[int, int]:
        used = int(_read(group.used_path) or 0)
        return max(0, used - _figure(_read(group.stat_path), group.droppable)), group.limit

    def _count_kills(self) -> int:
        """By the groups that have limits, else by the machine."""
        paths = [one.kills_path for one in self._groups] or [self._vmstat]
        return sum(_figure(_read(path), b"oom_kill") for path in paths)

    def _find(self) -> list[Group]:
        """The groups that this process is in, with those that they are in."""
        found: list[Group] = []
        for line in _read(os.path.join(self._root, "proc/self/cgroup")).decode().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                for folder in self._folders(V1, path):
                    found += self._limited(
                        folder,
                        "memory.limit_in_bytes",
                        "memory.usage_in_bytes",
                        b"total_inactive_file",
                        "memory.oom_control",
                    )
            elif not controllers:
                for mount in V2:
                    for folder in self._folders(mount, path):
                        found += self._limited(
                            folder,
                            "memory.max",
                            "memory.current",
                            b"inactive_file",
                            "memory.events",
                        )
        return found

    def _folders(self, mount: str, path: str) -> list[str]:
        """From the group up to the mount; in a container the mount may be the group itself."""
        mount = os.path.join(self._root, mount)
        parts = [part for part in path.split("/") if part not in ("", "..")]
        return [os.path.join(mount, *parts[:depth]) for depth in range(len(parts), -1, -1)]

    def _limited(
        self, folder: str, limit_name: str, used_name: str, droppable: bytes, kills_name: str
    ) -> list[Group]:
        limit = _read(os.path.join(folder, limit_name)).strip()
        if not limit.isdigit() or int(limit) <= 0:  # "max", or there is no such group
            return []
        names = (os.path.join(folder, name) for name in (used_name, "memory.stat"))
        used, stat = names
        return [Group(int(limit), used, stat, droppable, os.path.join(folder, kills_name))]


def own_memory(pid: int) -> int:
    """Bytes that come back when that process ends: its resident pages that it shares with nobody.

    0 if it has ended.
    """
    words = _read(f"/proc/{pid}/statm").split()
    return (int(words[1]) - int(words[2])) * PAGE_BYTES if len(words) > 2 else 0


def _figure(text: bytes, name: bytes) -> int:
    """The number behind that name in lines of names and numbers."""
    for line in text.splitlines():
        key, _, number = line.partition(b" ")
        if key == name:
            return int(number)
    return 0


def _read(path: str) -> bytes:
    """What the kernel says there; nothing if the process or group is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError, PermissionError):
        return b""
