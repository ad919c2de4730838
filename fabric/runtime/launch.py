"""The exec of a fabric's first process, and how it is ended.

Shared by the driver's private fabric (`fabric.runtime.start`) and the clusters of this host
(`fabric.runtime.home`). The settings travel through a pipe; what the daemons say goes to a log.
What runs in them, and whose directories they use, is not known here.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import fabric
from fabric.runtime.memory import MemoryMeter
from fabric.runtime.orphans import NODE_MARK
from fabric.runtime.settings import FabricSettings, encode_settings

START_S = 30.0
"""A fabric that is not ready after this long has failed."""

END_S = 3.0
"""The daemons get this long to end by themselves."""

LOOK_S = 0.02
"""Whoever waits for an end looks this often whether somebody is in a hurry."""

LOG_LINES = 20

MEMORY_SHARE = 0.3
SHARED_MEMORY_SHARE = 0.8
STORE_BYTES_MIN = 64 * 1024 * 1024

BOOT = "import sys; sys.path.insert(0, {!r}); from fabric.runtime.boot import main; main()"
"""Not ``-m``: that puts the working directory, whatever it contains, before everything else."""


def launch(
    settings: FabricSettings,
    log_path: str,
    *,
    locks: Sequence[int] = (),
    is_daemon: bool = False,
) -> subprocess.Popen[bytes]:
    """Exec the first process of a fabric, in a session of its own, with these settings.

    It inherits ``locks``. One that ``is_daemon`` outlives its starter, so it keeps neither the
    starter's pipe open (its standard output goes to the log too) nor its working directory in use.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(fabric.__file__)))
    reader, writer = os.pipe()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # an interrupt of the terminal's group that reaches the child before its own session does is
    # blocked there until it ignores interrupts
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT.format(home), str(reader)],
            stdin=subprocess.DEVNULL,
            stdout=log if is_daemon else None,
            stderr=log,
            cwd="/" if is_daemon else None,
            pass_fds=(reader, *locks),
            start_new_session=True,
            env={**os.environ, NODE_MARK: settings.node},
        )
    except BaseException:
        os.close(writer)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(reader)
        os.close(log)
    with os.fdopen(writer, "wb") as pipe:
        try:
            pipe.write(encode_settings(settings))
        except BrokenPipeError:  # it ended before it read; whoever waits for it says why
            return process
    return process


def end_process(
    process: subprocess.Popen[bytes], is_in_a_hurry: Callable[[], bool] = lambda: False
) -> bool:
    """Ask it to end; after `END_S`, make it. In a hurry it is left to end alone, which is false."""
    if process.poll() is not None:
        return True
    process.send_signal(signal.SIGTERM)
    until = time.monotonic() + END_S
    while not is_in_a_hurry():
        left_s = until - time.monotonic()
        if left_s <= 0:
            kill_session(process.pid)
        try:
            process.wait(min(left_s, LOOK_S) if left_s > 0 else None)
            return True
        except subprocess.TimeoutExpired:
            continue
    return False


def kill_session(pid: int) -> None:
    """Kill what is left of the session that the process leads."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended meanwhile
        return


def tail_of(path: str) -> str:
    """The last lines of a log, and where all of it is; for an error's text."""
    with open(path, errors="replace") as log:
        lines = log.read().splitlines()[-LOG_LINES:]
    return "".join(f"\n  {line}" for line in lines) + f"\nAll of it is in {path}."


def default_store_bytes() -> int:
    """The smaller of a share of this machine's (or cgroup's) memory and of free shared memory."""
    nbytes = int(MemoryMeter().limit * MEMORY_SHARE)
    if os.path.isdir("/dev/shm"):
        free = os.statvfs("/dev/shm")
        nbytes = min(nbytes, int(free.f_bavail * free.f_frsize * SHARED_MEMORY_SHARE))
    return max(nbytes, STORE_BYTES_MIN)
