"""Rows about being there: from nothing to a first result, and the cost of doing nothing."""

import subprocess
import sys
import time

from bench.peers import Peer
from bench.processes import CpuMeter, descendants, pss_mb
from bench.rows import Figures, Metric, Row, spent
from bench.work import nothing

SETTLE_S = 2.0
IDLE_S = 3.0


def _first_result(peer: Peer) -> Figures:
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


def _bare_python() -> Figures:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "print(1)"], check=True, stdout=subprocess.DEVNULL)
    return {"first": (time.perf_counter() - began) * 1e3}


def _idle(peer: Peer) -> Figures:
    peer.get([peer.task(nothing)() for _ in range(10)])
    time.sleep(SETTLE_S)
    meter, began = CpuMeter(), time.perf_counter()
    time.sleep(IDLE_S)
    cpu = meter.read() / (time.perf_counter() - began)
    others = descendants()
    return {"pss": pss_mb(others), "processes": len(others), "cpu": cpu * 100}


ROWS = [
    Row(
        "start",
        {
            "first": spent("python to first result", "ms"),
            "end": spent("  and to the end of the program", "ms"),
        },
        _first_result,
        is_cold=True,
        beside=_bare_python,
        beside_name="python",
    ),
    Row(
        "idle",
        {
            "pss": spent("idle, 2 workers: PSS beside the driver", "MB"),
            "processes": spent("  processes", ""),
            "cpu": Metric("  CPU", "%", "less"),
        },
        _idle,
    ),
]
