"""Rows about values: putting them, getting them, and reaching into a large one from a task."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.peers import Peer
from bench.rows import Figures, Metric, Row, rate, spent
from bench.work import first_of

SMALL = 5_000
LARGE_BYTES = 100_000_000
ROUNDS = 5


def _large() -> Any:
    """100 MB of numbers, with every page touched."""
    import numpy

    return numpy.arange(LARGE_BYTES // 8)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _small(peer: Peer) -> Figures:
    value = bytes(1024)
    began = time.perf_counter()
    refs = [peer.put(value) for _ in range(SMALL)]
    between = time.perf_counter()
    for ref in refs:
        peer.get_one(ref)
    return {"put": SMALL / (between - began), "get": SMALL / (time.perf_counter() - between)}


def _put_large(peer: Peer) -> Figures:
    """The first put touches fresh memory; later ones should find what the one before left."""
    value, seconds = _large(), []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        ref = peer.put(value)
        seconds.append(time.perf_counter() - began)
        del ref
        time.sleep(0.05)  # not a wait for a condition: programs do something between two puts
    gigabytes = LARGE_BYTES / 1e9
    return {"cold": gigabytes / seconds[0], "warm": gigabytes / median(seconds[1:])}


def _memcpy() -> Figures:
    import numpy

    source = _large()
    target = numpy.empty_like(source)
    numpy.copyto(target, source)
    best = median(_seconds(lambda: numpy.copyto(target, source)) for _ in range(ROUNDS))
    return {"warm": LARGE_BYTES / 1e9 / best}


def _get_large(peer: Peer) -> Figures:
    ref = peer.put(_large())
    return {"get": median(_seconds(lambda: peer.get_one(ref)) for _ in range(ROUNDS)) * 1e6}


def _task_reads_large(peer: Peer) -> Figures:
    """Through a ref where the peer has refs to values, else as an argument."""
    submit = peer.task(first_of)
    value = _large()
    argument = peer.put(value) if "put" in peer.verbs else value
    peer.get_one(submit(argument))
    seconds = [_seconds(lambda: peer.get_one(submit(argument))) for _ in range(ROUNDS)]
    return {"read": median(seconds) * 1e3}


PUT = frozenset({"put"})

ROWS = [
    Row("put-small", {"put": rate("put 1 KB"), "get": rate("get it")}, _small, PUT),
    Row(
        "put-large",
        {
            "cold": Metric("put 100 MB, cold store", "GB/s", "more"),
            "warm": Metric("put 100 MB, warm store", "GB/s", "more"),
        },
        _put_large,
        PUT,
        beside=_memcpy,
        beside_name="memcpy",
    ),
    Row("get-large", {"get": spent("get 100 MB where it lies", "µs")}, _get_large, PUT),
    Row(
        "read-large",
        {"read": spent("task that reads one element of 100 MB", "ms")},
        _task_reads_large,
    ),
]
