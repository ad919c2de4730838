"""Tasks that end their worker, or leave something behind; and the places that limit them.

In a module of their own, which imports little, as workers import it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabric import task
from tests.system.looks import wait_for_file, wait_until

CGROUPS = Path("/sys/fs/cgroup")


def count(place: str) -> int:
    """How often this was called with that place, this time not counted."""
    before = len(list(Path(place).glob("run-*")))
    Path(place, f"run-{before}-{os.getpid()}").touch()
    return before


@task(max_retries=0)
def leave(how: str) -> None:
    """End the process as users' code may."""
    print(f"about to leave by {how}", flush=True)
    print(f"\x1b[31mleaving by {how}", file=sys.stderr, flush=True)
    match how:
        case "os._exit(0)":
            os._exit(0)
        case "os._exit(7)":
            os._exit(7)
        case "sys.exit(3)":
            sys.exit(3)
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)


@task(max_retries=2)
def poison(place: str) -> None:
    """No worker survives it."""
    count(place)
    os.kill(os.getpid(), signal.SIGKILL)


@task(max_retries=0)
def innocent(place: str, value: int) -> int:
    """Has one attempt, and says that it had it."""
    Path(place, f"innocent-{value}-{os.getpid()}").touch()
    time.sleep(0.002)
    return value


@task
def large_then_dead(place: str, nbytes: int) -> bytes:
    """Its first attempts die when the result is written and before anybody is told."""
    attempt = count(place)
    if attempt < 2:
        from fabric.runtime.segments import SegmentWriter

        original = SegmentWriter.write

        def write(*args: Any) -> None:
            original(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        SegmentWriter.write = write  # type: ignore[method-assign,assignment]
    return bytes([attempt]) * nbytes


def sleeper(place: str, is_daemon: bool) -> None:
    """A process that sleeps; as a daemon in a session of its own, and nobody's child."""
    code = f"import os, time; open({place!r} + f'/pid-{{os.getpid()}}', 'w'); time.sleep(600)"
    if not is_daemon:
        subprocess.Popen([sys.executable, "-S", "-c", code])
        return
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-S", "-c", code])
        os._exit(0)


@task(max_retries=0)
def raise_children(place: str, then: str = "") -> int:
    """A child, a daemon, and a child of a child; then the worker ends, waits, or goes on."""
    sleeper(place, is_daemon=False)
    sleeper(place, is_daemon=True)
    subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from tests.system.trouble import sleeper; sleeper({place!r}, False);"
            " import time; time.sleep(600)",
        ]
    )
    wait_until(lambda: len(children_in(place)) == 3, "the children began")
    if then == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "wait":
        Path(place, "waiting").touch()
        wait_for_file(place + "/never")
    return os.getpid()


def children_in(place: str) -> list[int]:
    """Who has said that it lives."""
    return [int(path.name.removeprefix("pid-")) for path in Path(place).glob("pid-*")]


@task(max_retries=0)
def fork_without_end(place: str, at_most: int) -> int:
    """Fork until the kernel refuses; the children do nothing, half of them far away."""
    made = 0
    try:
        while made < at_most:
            if os.fork() == 0:
                if made % 2:
                    os.setsid()
                time.sleep(600)
                os._exit(0)
            made += 1
    finally:
        Path(place, f"forks-{made}").touch()
    return made


@task(max_retries=1)
def hoard(place: str, megabytes: int, gate: str) -> int:
    """Take that much memory, in steps, and wait; ``hoard`` or ``worker`` says who did."""
    attempt = count(place)
    held = []
    for _ in range(megabytes):
        held.append(bytearray(os.urandom(1024)) * 1024)
        time.sleep(0.001)
    Path(place, f"full-{os.getpid()}").touch()
    wait_for_file(gate)
    return attempt


@task(max_retries=1)
def nap(value: int, seconds: float) -> int:
    """Sleep that long."""
    time.sleep(seconds)
    return value


@contextmanager
def cgroup(kind: str, **limits: int) -> Iterator[Path | None]:
    """A control group (version 1) of that kind with these limits; None where there may be none."""
    parent = CGROUPS / kind
    path = parent / f"fabric-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        path.mkdir()
        for name, limit in limits.items():
            (path / f"{kind}.{name}").write_text(str(limit))
    except OSError:
        if path.exists():
            path.rmdir()
        yield None
        return
    try:
        yield path
    finally:
        wait_until(lambda: not (path / "cgroup.procs").read_text(), "the group is empty")
        path.rmdir()
