"""Rows about calls that depend on calls: chains, trees, many arguments, waits, nests."""

from statistics import median

from bench.clock import rate_and_cpu, seconds_of
from bench.peer import Peer
from bench.rows import Figures, Row, Target, rate, spent, verbs
from bench.work import added, count_of, nothing, same, successor

ROUNDS = 5


def chain(peer: Peer, links: int) -> Figures:
    submit = peer.task(successor)

    def work() -> None:
        ref = submit(0)
        for _ in range(links - 1):
            ref = submit(ref)
        assert peer.get_one(ref) == links

    figures = rate_and_cpu(work, links)
    return {"link": 1e6 / figures["rate"], "cpu": figures["cpu"]}


def tree(peer: Peer, leaves: int) -> Figures:
    leaf, knot = peer.task(same), peer.task(added)

    def work() -> None:
        refs = [leaf(number) for number in range(leaves)]
        while len(refs) > 1:
            pairs = zip(refs[::2], refs[1::2], strict=False)
            refs = [knot(*pair) for pair in pairs] + refs[len(refs) // 2 * 2 :]
        assert peer.get_one(refs[0]) == sum(range(leaves))

    return {"seconds": seconds_of(work)}


def many_arguments(peer: Peer, arguments: int) -> Figures:
    made, submit = peer.task(same), peer.task(count_of)
    refs = [made(number) for number in range(arguments)]
    peer.get(refs)

    def work() -> None:
        assert peer.get_one(submit(*refs)) == arguments

    return {"milliseconds": median(seconds_of(work) for _ in range(ROUNDS)) * 1e3}


def waits(peer: Peer, calls: int) -> Figures:
    """Submission included: who waits for the first of many has the others under way."""
    submit = peer.task(nothing)

    def work() -> None:
        refs = [submit() for _ in range(calls)]
        assert sum(1 for _ in peer.one_by_one(refs)) == calls

    return {"seconds": seconds_of(work)}


def nests(peer: Peer, calls: int) -> Figures:
    submit = peer.task(peer.fan_out())

    def work() -> None:
        assert peer.get([submit(calls), submit(calls)]) == [calls, calls]

    # workers that step in for those that wait are there from now on: how long a start takes is
    # told by other rows
    assert peer.get([submit(10), submit(10)]) == [10, 10]
    return rate_and_cpu(work, 2 * calls)


REFS = verbs("submit refs")

ROWS = [
    Row(
        "chain",
        "chain of {} dependent tasks, a link",
        "calls",
        {
            "link": spent("", "µs", Target(0.1, "ray")),
            "cpu": spent("CPU a call, all processes", "µs", is_shown=False),
        },
        chain,
        1_000,
        REFS,
        {"dask": 300},
    ),
    Row(
        "tree",
        "tree reduction of {} leaves",
        "calls",
        {"seconds": spent("", "s", Target(0.05, "ray"))},
        tree,
        1_024,
        REFS,
    ),
    Row(
        "arguments",
        "one task with {} refs as arguments",
        "calls",
        {"milliseconds": spent("", "ms", Target(0.3, "ray"))},
        many_arguments,
        1_000,
        REFS,
    ),
    Row(
        "wait",
        "wait for {} refs one by one",
        "calls",
        {"seconds": spent("", "s", Target(0.1, "ray"))},
        waits,
        1_000,
        verbs("submit wait"),
    ),
    Row(
        "nested",
        "two tasks that each run {} nested tasks",
        "calls",
        {"rate": rate("", Target(20, "ray")), "cpu": spent("CPU a call", "µs", is_shown=False)},
        nests,
        1_000,
        verbs("submit nested"),
        {"dask": 200},
    ),
]
