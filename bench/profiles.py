"""Profilers that stay on in a thread after the call that started them has ended.

Apart from `bench.profile_calls`, because a worker has to import it: what is defined in the program
that is run travels by value, and every function would then have its own table of profiles.
"""

import cProfile
import io
import os
import pstats
import sys
import threading
from types import FrameType
from typing import Any

PROFILES: dict[str, cProfile.Profile] = {}
"""Thread name → its profile, in whichever process this module was imported."""


def arm(name: str) -> None:
    """Profile the current thread from here on, past the end of the call that asked for it."""
    PROFILES[name] = cProfile.Profile()
    PROFILES[name].enable()


def arm_worker(_: int) -> int:
    if "worker" not in PROFILES:
        arm("worker")
    return os.getpid()


def worker_report(top: int) -> tuple[int, str]:
    """The pid of the worker that ran this and its profile so far."""
    return os.getpid(), report(PROFILES["worker"], top) if "worker" in PROFILES else ""


def arm_new_threads() -> None:
    """Threads that start from now on profile themselves: their first call replaces the hook."""

    def on_first_call(frame: FrameType, event: str, argument: Any) -> None:
        sys.setprofile(None)
        arm(threading.current_thread().name)

    threading.setprofile(on_first_call)


def report(profile: cProfile.Profile, top: int) -> str:
    """The functions with the most time of their own."""
    profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(top)
    rows = text.getvalue().splitlines()
    return "\n".join(row for row in rows if row.strip() and "Ordered by" not in row)
