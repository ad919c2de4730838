"""Rows about being there: from nothing to a first result, and the cost of doing nothing."""

import subprocess
import sys
import time

from bench.clock import seconds_of
from bench.peer import Peer
from bench.processes import CpuMeter, descendants, is_alive, pss_mb
from bench.rows import Figures, Metric, Row, Target, spent
from bench.work import nap

SETTLED_AFTER = 0.7
"""Of the time that is then measured."""


def first_result(peer: Peer, _: int) -> Figures:
    """From starting Python to the line the program prints, and until it has ended."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", peer.script], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        answer = program.stdout.readline()
        first_s = time.perf_counter() - began
        program.stdout.read()
    assert answer == b"1\n", f"{peer.name} answered {answer!r}"
    assert program.returncode == 0, f"{peer.name} ended with {program.returncode}"
    return {"first": first_s * 1e3, "end": (time.perf_counter() - began) * 1e3}


def bare_python(_: int) -> Figures:
    command = [sys.executable, "-c", "print(1)"]
    seconds = seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    return {"first": seconds * 1e3}


def imports(peer: Peer, _: int) -> Figures:
    """The statements alone, without Python's own start; caches of bytecode are warm."""
    program = f"import time; began = time.perf_counter()\n{peer.importing}\n"
    command = [sys.executable, "-c", program + "print(time.perf_counter() - began)"]
    said = [subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout for _ in range(2)]
    return {"milliseconds": float(said[1]) * 1e3}


def idle(peer: Peer, seconds: int) -> Figures:
    peer.get([peer.task(nap)(0.05) for _ in range(4)])
    time.sleep(seconds * SETTLED_AFTER)
    meter, began = CpuMeter(), time.perf_counter()
    time.sleep(seconds)
    cpu = meter.read() / (time.perf_counter() - began)
    others = [pid for pid in descendants() if is_alive(pid)]
    return {"pss": pss_mb(others), "processes": len(others), "cpu": cpu * 100}


ROWS = [
    Row(
        "start",
        "python to first result",
        "start",
        {
            "first": spent("", "ms", Target(0.12, "ray")),
            "end": spent("and to the end of the program", "ms", is_shown=False),
        },
        first_result,
        1,
        start="cold",
        bare=bare_python,
        bare_name="python",
    ),
    Row(
        "idle",
        "idle, 2 workers: PSS beside the driver",
        "idle",
        {
            "pss": spent("", "MB", Target(40)),
            "processes": spent("processes", "", Target(5)),
            "cpu": Metric("CPU", "%", "less", (Target(1),)),
        },
        idle,
        2,
        least=1,
    ),
    Row(
        "import",
        "import",
        "start",
        {"milliseconds": spent("", "ms", Target(100))},
        imports,
        1,
        start="cold",
    ),
]
