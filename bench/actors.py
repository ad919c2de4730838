"""Rows about actors: one call, many calls, and many actors."""

from typing import Any

from bench.calls import bare_echo
from bench.clock import rate_and_cpu, round_trips, seconds_of
from bench.peer import Peer
from bench.rows import Figures, Row, Target, rate, spent, verbs
from bench.work import Counter


def actor_round_trips(peer: Peer, calls: int) -> Figures:
    add, get_one = peer.actor(Counter, "add"), peer.get_one
    return round_trips(lambda: get_one(add(1)), calls)


def _calls_to(peer: Peer, actors: int, calls: int) -> Figures:
    each = calls // actors
    methods = [peer.actor(Counter, "add") for _ in range(actors)]
    peer.get([add(1) for add in methods])

    def work() -> None:
        assert max(peer.get([add(1) for _ in range(each) for add in methods])) == each + 1

    return rate_and_cpu(work, each * actors)


def calls_to_one(peer: Peer, calls: int) -> Figures:
    return _calls_to(peer, 1, calls)


def calls_to_four(peer: Peer, calls: int) -> Figures:
    return _calls_to(peer, 4, max(calls, 4))


def creations(peer: Peer, actors: int) -> Figures:
    """From the first constructor to the answer of every one."""
    kept: list[Any] = []

    def work() -> None:
        kept.extend(peer.actor(Counter, "add") for _ in range(actors))
        assert peer.get([add(1) for add in kept]) == [1] * actors

    return {"rate": actors / seconds_of(work)}


ACTOR = verbs("actor")

ROWS = [
    Row(
        "actor-latency",
        "one actor call and get",
        "actors",
        {
            "median": spent(
                "", "µs", Target(0.2, "ray"), Target(0.7, "PPE", row="latency", metric="median")
            ),
            "p99": spent("99th percentile", "µs"),
        },
        actor_round_trips,
        1_000,
        ACTOR,
        bare=bare_echo,
        bare_name="zmq echo",
    ),
    Row(
        "actor",
        "{} calls to one actor",
        "actors",
        {
            "rate": rate("", Target(15, "ray")),
            "cpu": spent("CPU a call, all processes", "µs"),
        },
        calls_to_one,
        10_000,
        ACTOR,
        {"dask": 1_000},
    ),
    Row(
        "four-actors",
        "{} calls to four actors",
        "actors",
        {
            "rate": rate("", Target(15, "ray")),
            "cpu": spent("CPU a call, all processes", "µs"),
        },
        calls_to_four,
        10_000,
        ACTOR,
        {"dask": 1_000},
    ),
    Row(
        "creation",
        "create {} actors and call each",
        "actors",
        {"rate": rate("", Target(80, "ray"))},
        creations,
        20,
        ACTOR,
    ),
]
