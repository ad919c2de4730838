"""Rows about values: putting them, getting them, and reaching into a large one from a task.

The large ones come first, while the store is cold.
"""

import time
from statistics import median
from typing import Any

from bench.clock import seconds_of
from bench.peer import Peer
from bench.rows import Figures, Row, Target, rate, spent, verbs
from bench.work import first_of

ROUNDS = 5


def large(megabytes: int) -> Any:
    """So many MB of numbers, with every page touched."""
    import numpy

    return numpy.arange(megabytes * 1_000_000 // 8)


def small_values(peer: Peer, values: int) -> Figures:
    value = bytes(1024)
    began = time.perf_counter()
    refs = [peer.put(value) for _ in range(values)]
    between = time.perf_counter()
    for ref in refs:
        peer.get_one(ref)
    return {"put": values / (between - began), "get": values / (time.perf_counter() - between)}


def put_large(peer: Peer, megabytes: int) -> Figures:
    """The first put touches fresh memory; later ones should find what the one before left."""
    value, seconds = large(megabytes), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        ref = peer.put(value)
        seconds.append(time.perf_counter() - began)
        del ref
        time.sleep(0.1)  # not a wait for a condition: programs do something between two puts
    gigabytes = megabytes / 1e3
    return {"cold": gigabytes / seconds[0], "warm": gigabytes / median(seconds[1:])}


def memcpy(megabytes: int) -> Figures:
    import numpy

    source = large(megabytes)
    target = numpy.empty_like(source)
    cold_s = seconds_of(lambda: numpy.copyto(target, source))
    warm_s = median(seconds_of(lambda: numpy.copyto(target, source)) for _ in range(ROUNDS))
    return {"cold": megabytes / 1e3 / cold_s, "warm": megabytes / 1e3 / warm_s}


def get_large(peer: Peer, megabytes: int) -> Figures:
    """The value lies where it was put; whether it was copied shows in its flags."""
    ref = peer.put(large(megabytes))
    seconds = median(seconds_of(lambda: peer.get_one(ref)) for _ in range(ROUNDS))
    value = peer.get_one(ref)
    return {"get": seconds * 1e6, "copies": float(value.flags.owndata or value.flags.writeable)}


def read_large(peer: Peer, megabytes: int) -> Figures:
    """Through a ref where the peer has refs to values, else as an argument."""
    submit, value = peer.task(first_of), large(megabytes)
    argument = peer.put(value) if "put" in peer.verbs else value
    peer.get_one(submit(argument))
    seconds = [seconds_of(lambda: peer.get_one(submit(argument))) for _ in range(ROUNDS)]
    return {"read": median(seconds) * 1e3}


PUT = verbs("put")
IN_STORE = frozenset({"fabric", "ray"})
"""dask's put value lies in a worker, so getting it is not the same question."""

ROWS = [
    Row(
        "put-large",
        "put {} MB, warm store",
        "values",
        {
            "warm": rate("", Target(1, "ray"), unit="GB/s"),
            "cold": rate("cold store", Target(1, "ray"), unit="GB/s"),
        },
        put_large,
        100,
        PUT,
        bare=memcpy,
        bare_name="memcpy",
    ),
    Row(
        "put-huge",
        "put {} MB, warm store",
        "values",
        {
            "warm": rate("", Target(0.9, "bare"), unit="GB/s"),
            "cold": rate("cold store", unit="GB/s"),
        },
        put_large,
        800,
        PUT,
        peers=IN_STORE,
        bare=memcpy,
        bare_name="memcpy",
    ),
    Row(
        "put-small",
        "put 1 KB, {} times",
        "values",
        {"put": rate("", Target(50, "ray")), "get": rate("get it", Target(20, "ray"))},
        small_values,
        5_000,
        PUT,
        {"ray": 2_000, "dask": 200},
    ),
    Row(
        "get-large",
        "get {} MB where it lies",
        "values",
        {
            "get": spent("", "µs", Target(1, "ray")),
            "copies": spent("copies made", "", Target(0), is_shown=False),
        },
        get_large,
        100,
        PUT,
        peers=IN_STORE,
    ),
    Row(
        "read-large",
        "task that reads one element of {} MB",
        "values",
        {"read": spent("", "ms", Target(0.15, "ray"))},
        read_large,
        100,
    ),
]
