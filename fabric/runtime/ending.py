"""The end of a cluster's daemon: every process of it, then its directories.

Found by the kernel's word, not by files: the node and the control store hold the locks of the
cluster's directories open, and all other processes descend from them. A private fabric ends with
its driver and is never found here. What runs in those processes is not known here.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable

import msgspec

from fabric.exceptions import ClusterError
from fabric.runtime.directories import NAME, PRIVATE, remove_if_orphan
from fabric.runtime.launch import END_S

KILL_S = 5.0
"""What was killed is gone after this long, or stuck in the kernel."""

NODE = "fabric:node"
CONTROL = "fabric:control"


class Daemon(msgspec.Struct):
    """The processes of one cluster on this host that hold its directories."""

    name: str
    directories: tuple[str, ...]
    nodes: list[int] = []
    controls: list[int] = []

    @property
    def pid(self) -> int:
        """Its first process; the control store's where the node has died."""
        return (self.nodes or self.controls)[0]


def daemons() -> list[Daemon]:
    """Those of every cluster of this user on this host, whatever their ``FABRIC_HOME``."""
    found: dict[tuple[str, ...], Daemon] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if entry.stat().st_uid != os.geteuid():
                continue
            title = _read(f"/proc/{entry.name}/comm")
            directories = _directories_of(entry.name) if title in (NODE, CONTROL) else ()
            if directories:
                name = _read(os.path.join(directories[0], "lock")).partition(" ")[2]
                if name.startswith(PRIVATE):
                    continue
                daemon = found.setdefault(directories, Daemon(name, directories))
                (daemon.nodes if title == NODE else daemon.controls).append(int(entry.name))
    return list(found.values())


def _directories_of(pid: str) -> tuple[str, ...]:
    """The runtime and store directories whose locks that process holds open."""
    held = set()
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            directory, name = os.path.split(os.readlink(descriptor.path))
            if name == "lock" and NAME.fullmatch(os.path.basename(directory)):
                held.add(directory)
    return tuple(sorted(held))


def _read(path: str) -> str:
    with open(path, errors="replace") as stream:
        return stream.read().strip()


def end_daemon(daemon: Daemon) -> None:
    """Ask it to end; after `END_S`, make it. Returns when all of it is gone."""
    family = _family([*daemon.nodes, *daemon.controls])
    try:
        _send(family, daemon.nodes or daemon.controls, signal.SIGTERM)
        if _wait(family, END_S):
            _send(family, list(family), signal.SIGKILL)
            _wait(family, KILL_S)
    finally:
        for pidfd in family.values():
            os.close(pidfd)
    left = [path for path in daemon.directories if os.path.isdir(path)]
    if [path for path in left if not remove_if_orphan(path)]:
        raise ClusterError(
            f"Cluster {daemon.name!r} (pid {daemon.pid}) has not ended within {END_S + KILL_S:g} s."
        )


def _family(roots: Iterable[int]) -> dict[int, int]:
    """These processes and all that descend from them: pid → pidfd."""
    import psutil

    pids: dict[int, None] = {}
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            pids[root] = None
            pids.update((child.pid, None) for child in psutil.Process(root).children(True))
    family = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            family[pid] = os.pidfd_open(pid)
    return family


def _send(family: dict[int, int], pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        if pid in family:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(family[pid], number)


def _wait(family: dict[int, int], patience_s: float) -> bool:
    """Wait until all have ended; whether some have not."""
    poll = select.poll()
    for pidfd in family.values():
        poll.register(pidfd, select.POLLIN)
    left = len(family)
    until = time.monotonic() + patience_s
    while left and (left_s := until - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left_s * 1000):
            poll.unregister(pidfd)
            left -= 1
    return left > 0
