"""How rows look at the clock: seconds of some work, its rate and CPU, and a list of round trips."""

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

from bench.processes import CpuMeter
from bench.rows import Figures


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rate_and_cpu(work: Callable[[], Any], calls: int) -> Figures:
    """Of some work that makes so many calls; CPU in µs a call."""
    meter = CpuMeter()
    seconds = seconds_of(work)
    return {"rate": calls / seconds, "cpu": meter.read() / calls * 1e6}


def latency(seconds: list[float]) -> Figures:
    """Median and 99th percentile in µs."""
    return {"median": median(seconds) * 1e6, "p99": quantiles(seconds, n=100)[98] * 1e6}


def round_trips(work: Callable[[], Any], count: int) -> Figures:
    """So many, one after the other; the first ones do not count."""
    taken = [seconds_of(work) for _ in range(count + count // 20)]
    return latency(taken[count // 20 :])
