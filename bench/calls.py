"""Rows about task calls: how many a second, at what CPU, and how long one takes."""

from bench.clock import latency, rate_and_cpu, round_trips
from bench.echo import round_trips_s
from bench.peer import Peer
from bench.rows import Figures, Row, Target, rate, spent, verbs
from bench.work import nothing, same


def nothing_calls(peer: Peer, calls: int) -> Figures:
    submit = peer.task(nothing)
    return rate_and_cpu(lambda: peer.get([submit() for _ in range(calls)]), calls)


def same_calls(peer: Peer, calls: int) -> Figures:
    submit = peer.task(same)

    def work() -> None:
        assert peer.get([submit(number) for number in range(calls)])[-1] == calls - 1

    return rate_and_cpu(work, calls)


def mapped_calls(peer: Peer, calls: int) -> Figures:
    def work() -> None:
        assert peer.map(same, range(calls))[-1] == calls - 1

    return rate_and_cpu(work, calls)


def task_round_trips(peer: Peer, calls: int) -> Figures:
    submit, get_one = peer.task(nothing), peer.get_one
    return round_trips(lambda: get_one(submit()), calls)


def bare_echo(calls: int) -> Figures:
    return latency(round_trips_s(calls))


FAST = (Target(50, "ray"), Target(2, "Pool"))
FEWER = {"ray": 3_000, "dask": 1_000}

ROWS = [
    Row(
        "nothing",
        "{} no-op tasks one by one, then get",
        "calls",
        {
            "rate": rate("", *FAST),
            "cpu": spent("CPU a call, all processes", "µs", Target(12)),
        },
        nothing_calls,
        10_000,
        verbs("submit"),
        FEWER,
    ),
    Row(
        "same",
        "{} tasks with an int in and out",
        "calls",
        {"rate": rate("", *FAST), "cpu": spent("CPU a call, all processes", "µs")},
        same_calls,
        10_000,
        verbs("submit"),
        FEWER,
    ),
    Row(
        "map",
        "map of {} trivial calls",
        "calls",
        {"rate": rate("", Target(1, "best")), "cpu": spent("CPU a call, all processes", "µs")},
        mapped_calls,
        1_000_000,
        verbs("map"),
    ),
    Row(
        "latency",
        "one task, submit and get",
        "calls",
        {
            "median": spent("", "µs", Target(0.1, "ray"), Target(0.7, "PPE")),
            "p99": spent("99th percentile", "µs", Target(1, "PPE")),
        },
        task_round_trips,
        1_000,
        verbs("submit"),
        {"dask": 300},
        bare=bare_echo,
        bare_name="zmq echo",
    ),
]
