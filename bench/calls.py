"""Rows about calls: how many a second, at what CPU, and how long one takes."""

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

from bench.echo import round_trips_s
from bench.peers import Peer
from bench.processes import CpuMeter
from bench.rows import Figures, Row, rate, spent
from bench.work import Counter, nothing, same, successor

CALLS = 10_000
MAPPED = 100_000
MAPPED_MANY = 1_000_000
LINKS = 1_000
ROUND_TRIPS = 1_000


def _timed(work: Callable[[], Any], calls: int) -> Figures:
    """Rate and CPU of some work that makes so many calls."""
    meter = CpuMeter()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return {"rate": calls / seconds, "cpu": meter.read() / calls * 1e6}


def _many(title: str) -> dict[str, Any]:
    return {"rate": rate(title), "cpu": spent("  CPU a call, all processes", "µs")}


def _nothing_calls(peer: Peer) -> Figures:
    submit = peer.task(nothing)
    return _timed(lambda: peer.get([submit() for _ in range(CALLS)]), CALLS)


def _same_calls(peer: Peer) -> Figures:
    submit = peer.task(same)

    def work() -> None:
        assert peer.get([submit(number) for number in range(CALLS)])[-1] == CALLS - 1

    return _timed(work, CALLS)


def _actor_calls(peer: Peer) -> Figures:
    add = peer.actor(Counter, "add")
    peer.get_one(add(1))

    def work() -> None:
        assert peer.get([add(1) for _ in range(CALLS)])[-1] == CALLS + 1

    return _timed(work, CALLS)


def _mapped_calls(peer: Peer, calls: int = MAPPED) -> Figures:
    def work() -> None:
        assert peer.map(same, range(calls))[-1] == calls - 1

    return _timed(work, calls)


def _many_mapped_calls(peer: Peer) -> Figures:
    return _mapped_calls(peer, MAPPED_MANY)


def _chain(peer: Peer) -> Figures:
    submit = peer.task(successor)

    def work() -> None:
        ref = submit(0)
        for _ in range(LINKS - 1):
            ref = submit(ref)
        assert peer.get_one(ref) == LINKS

    figures = _timed(work, LINKS)
    return {"link": 1e6 / figures["rate"], "cpu": figures["cpu"]}


def _latency(seconds: list[float]) -> Figures:
    return {"median": median(seconds) * 1e6, "p99": quantiles(seconds, n=100)[98] * 1e6}


def _round_trips(peer: Peer, submit: Callable[..., Any], *arguments: Any) -> Figures:
    get_one = peer.get_one
    seconds = []
    for _ in range(ROUND_TRIPS + 50):
        began = time.perf_counter()
        get_one(submit(*arguments))
        seconds.append(time.perf_counter() - began)
    return _latency(seconds[50:])


def _task_round_trip(peer: Peer) -> Figures:
    return _round_trips(peer, peer.task(nothing))


def _actor_round_trip(peer: Peer) -> Figures:
    return _round_trips(peer, peer.actor(Counter, "add"), 1)


def _bare_echo() -> Figures:
    return _latency(round_trips_s(ROUND_TRIPS))


ROWS = [
    Row("nothing", _many(f"{CALLS:,} no-op tasks, one by one, then get"), _nothing_calls),
    Row("same", _many(f"{CALLS:,} tasks with an int in and out"), _same_calls),
    Row("map", _many(f"map of {MAPPED:,} trivial calls"), _mapped_calls, frozenset({"map"})),
    Row(
        "map-many",
        _many(f"map of {MAPPED_MANY:,} trivial calls"),
        _many_mapped_calls,
        frozenset({"map"}),
    ),
    Row(
        "latency",
        {
            "median": spent("one task, submit and get", "µs"),
            "p99": spent("  99th percentile", "µs"),
        },
        _task_round_trip,
        beside=_bare_echo,
        beside_name="echo",
    ),
    Row(
        "actor-latency",
        {"median": spent("one actor call and get", "µs"), "p99": spent("  99th percentile", "µs")},
        _actor_round_trip,
        frozenset({"actor"}),
        beside=_bare_echo,
        beside_name="echo",
    ),
    Row("actor", _many(f"{CALLS:,} calls to one actor"), _actor_calls, frozenset({"actor"})),
    Row(
        "chain",
        {
            "link": spent(f"chain of {LINKS:,} tasks, per link", "µs"),
            "cpu": spent("  CPU a call, all processes", "µs"),
        },
        _chain,
        frozenset({"refs"}),
    ),
]
