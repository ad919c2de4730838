"""Rows about many calls at once, a driver that does something else, and a second driver."""

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.clock import rate_and_cpu, seconds_of
from bench.peer import Peer, Ref
from bench.processes import forget_peak, peak_rss_mb, rss_mb
from bench.rows import Figures, Metric, Row, Target, rate, spent, verbs
from bench.work import nap, nothing

ROOT = Path(__file__).parent.parent
CALL_S = 0.001
JOIN_S = 60.0


def queued_calls(peer: Peer, calls: int) -> Figures:
    """All refs are held until all results are there; memory is the most there was in between."""
    submit = peer.task(nothing)
    before = rss_mb(os.getpid())
    forget_peak()
    figures = rate_and_cpu(lambda: peer.get([submit() for _ in range(calls)]), calls)
    growth_mb = max(peak_rss_mb(os.getpid()) - before, 0.0)
    return {"rate": figures["rate"], "growth": growth_mb, "growth_call": growth_mb / calls * 1e3}


def _compute_until_done(peer: Peer, ref: Ref) -> None:
    """Pure Python that never lets go of the interpreter by itself; a look every 20 ms or so."""
    number = 0
    while not peer.is_done(ref):
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            for _ in range(100):
                number = (number * 31 + 7) % 65_537


def busy_driver(peer: Peer, calls: int) -> Figures:
    """Calls of 1 ms that mostly sleep: the third busy process on two cores is the driver's own."""
    submit = peer.task(nap)

    def waiting() -> None:
        peer.get([submit(CALL_S) for _ in range(calls)])

    def computing() -> None:
        refs = [submit(CALL_S) for _ in range(calls)]
        for ref in refs[-10:]:
            _compute_until_done(peer, ref)

    idle_s, busy_s = seconds_of(waiting), seconds_of(computing)
    return {"rate": calls / busy_s, "waiting": calls / idle_s, "kept": 100 * idle_s / busy_s}


def second_driver(peer: Peer, calls: int) -> Figures:
    """Its first task, from submission to result, while this driver has that many calls queued."""
    submit = peer.task(nap)
    refs = [submit(CALL_S) for _ in range(calls)]
    joined = subprocess.run(
        [sys.executable, "-m", "bench.second_driver", peer.name, os.environ["BENCH_ADDRESS"]],
        cwd=ROOT,
        check=True,
        timeout=JOIN_S,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert not peer.is_done(refs[-1]), "the queue was empty before the second driver was through"
    return {"milliseconds": float(joined.stdout) * 1e3}


QUEUED = 100_000

ROWS = [
    Row(
        "queued",
        "{} tasks queued at once",
        "crowds",
        {
            "rate": rate("", Target(50, "ray")),
            "growth_call": spent("driver's growth a call", "KB", Target(1.0)),
            "growth": spent("driver's growth", "MB", is_shown=False),
        },
        queued_calls,
        QUEUED,
        verbs("submit"),
        {"ray": 10_000, "dask": 2_000, "PPE": 30_000, "loky": 30_000},
    ),
    Row(
        "million",
        "{} tasks queued at once",
        "million",
        {
            "growth": spent("driver's growth", "MB", Target(700)),
            "rate": rate(""),
            "growth_call": spent("driver's growth a call", "KB", is_shown=False),
        },
        queued_calls,
        1_000_000,
        verbs("submit"),
        peers=frozenset({"fabric"}),
    ),
    Row(
        "busy-driver",
        "{} calls of 1 ms while the driver computes",
        "crowds",
        {
            "rate": rate(""),
            "kept": Metric("of the rate while it waits", "%", "more", (Target(50),)),
            "waiting": Metric("while it waits", "/s", "more", is_shown=False),
        },
        busy_driver,
        2_000,
        verbs("submit"),
        {"dask": 1_000},
    ),
    Row(
        "second-driver",
        "a second driver's first task while {} are queued",
        "second-driver",
        {"milliseconds": spent("", "ms", Target(200))},
        second_driver,
        QUEUED,
        verbs("submit drivers"),
        {"ray": 20_000, "dask": 10_000},
        least=5_000,
        start="shared",
    ),
]
