"""Is the machine quiet enough to believe what is measured on it?

Every processor gets a process that only counts, for a moment; on a quiet machine each of them gets
all of the time that passes. That is asked before each repetition, since others may come at any
time; the load average is asked once, before the run makes a load of its own.
"""

import os
import subprocess
import sys
from statistics import median

SPIN_S = 0.4
SHARE_MIN = 0.93
LOAD_MAX = 0.5
"""A processor."""
REPETITIONS_MIN = 5

SPIN = f"""
import time
began, spent = time.perf_counter(), time.process_time()
while time.perf_counter() - began < {SPIN_S}:
    for _ in range(1000): pass
print((time.process_time() - spent) / (time.perf_counter() - began))
"""


class Refusal(Exception):
    """Figures for the README are not written; each kind has an exit status of its own."""

    status: int


class LoadedMachine(Refusal):
    """Others use the machine."""

    status = 3


class TooFewRepetitions(Refusal):
    """A median of so few says nothing."""

    status = 4


class IncompleteRun(Refusal):
    """Rows or systems are missing, or something failed."""

    status = 5


def share_we_get() -> float:
    """Of the processors, while something computes on each: 1.0 is all of them."""
    spinning = [
        subprocess.Popen([sys.executable, "-S", "-c", SPIN], stdout=subprocess.PIPE)
        for _ in os.sched_getaffinity(0)
    ]
    return min(float(each.communicate()[0]) for each in spinning)


def load() -> float:
    """The load average of the last minute, a processor."""
    return os.getloadavg()[0] / len(os.sched_getaffinity(0))


def refuse_if_loaded(load_before: float, shares: list[float]) -> None:
    if load_before > LOAD_MAX:
        raise LoadedMachine(
            f"The machine was busy before the run: a load of {load_before:.2f} a processor, at "
            f"most {LOAD_MAX} is fine. Wait a minute, or find out who it is with `top`."
        )
    if median(shares) < SHARE_MIN or min(shares) < SHARE_MIN - 0.1:
        raise LoadedMachine(
            "Others used the machine during the run: of the processors we had "
            f"{', '.join(f'{share:.2f}' for share in shares)} before each repetition, "
            f"{SHARE_MIN} is the least."
        )


def refuse_if_few(repetitions: int) -> None:
    if repetitions < REPETITIONS_MIN:
        raise TooFewRepetitions(
            f"{repetitions} repetitions are too few for the README: it takes {REPETITIONS_MIN}."
        )
