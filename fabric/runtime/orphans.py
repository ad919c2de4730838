"""What a killed node has left: processes that user code started, found and killed by the zygote.

A worker's processes are killed by its node when the worker ends. When the node itself is killed its
workers die with it, and nobody is the parent of what they had started. Those processes are found by
their session, which is the node's, or by the mark in the environment that the node was started
with. One that has left the session and cleared its environment is not found.

Whoever kills what he has not started himself must be sure: nothing is killed that is older than the
node, that is another user's, or whose number may by now be somebody else's.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

NODE_MARK = "FABRIC_NODE"
"""The variable that names the node in the environment of all that descends from it."""

PATIENCE_S = 2.0
"""What was killed is gone after this long, or stuck in the kernel."""

POLL_S = 0.005


class Origin(NamedTuple):
    """How descendants of a node are known."""

    mark: bytes
    session: int | None
    born: int
    """When the node was, in ticks of the kernel since it booted."""
    user: int


class Status(NamedTuple):
    """What the kernel says about a process."""

    is_alive: bool
    session: int
    born: int


def origin_of(node: int, mark: str) -> Origin | None:
    """How the descendants of that node are known; None if they carry no mark.

    To be asked by its child while it lives. As long as the child does, the number of the node's
    session is not given to another.
    """
    mine, its = _status(os.getpid()), _status(node)
    if not mark or mine is None or its is None:
        return None
    # a node may live in a session of somebody else's: the others there are none of ours
    session = node if its.session == mine.session == node else None
    return Origin(f"{NODE_MARK}={mark}".encode(), session, its.born, os.getuid())


def kill_orphans(origin: Origin, spared: Sequence[int]) -> None:
    """Kill what the node, now dead, has left, until nothing of it is found any more."""
    kept = {1, os.getpid(), *spared}
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not [pid for pid in _processes() if pid not in kept and _kill(pid, origin)]:
            return
        time.sleep(POLL_S)


def _processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _kill(pid: int, origin: Origin) -> bool:
    """Kill that process if it descends from there; whether there was something to kill."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        pidfd = os.pidfd_open(pid)  # first: what is looked at then is what is killed
        try:
            if _is_from(pid, origin):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def _is_from(pid: int, origin: Origin) -> bool:
    """Whether that process lives and descends from there."""
    try:
        status = _status(pid)
        if status is None or not status.is_alive or status.born < origin.born:
            return False
        if os.stat(f"/proc/{pid}").st_uid != origin.user:
            return False
        if status.session == origin.session:
            return True
        with open(f"/proc/{pid}/environ", "rb") as environment:
            return origin.mark in environment.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or somebody else's
        return False


def _status(pid: int) -> Status | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Status(fields[0] not in b"ZX", int(fields[3]), int(fields[19]))
