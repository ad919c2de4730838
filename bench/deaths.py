"""The row about a worker that is killed at work: what that costs, and whether anything is lost."""

import os
import signal
import threading
from concurrent.futures import BrokenExecutor
from multiprocessing import TimeoutError as PoolTimeoutError

from bench.clock import seconds_of
from bench.peer import Peer, Said
from bench.processes import is_alive
from bench.rows import Figures, Row, Target, spent
from bench.work import nap

NAP_S = 0.05
KILLED_AFTER = 0.25
"""Of the time that all naps take."""


def one_killed(peer: Peer, calls: int) -> Figures:
    """First with a death, then without: a peer that is broken by one says so early."""
    submit = peer.task(nap)
    victim = peer.get([submit(NAP_S) for _ in range(4)])[0]
    ideal_s = calls * NAP_S / 2
    pids: list[list[int]] = []

    def work() -> None:
        pids.append(peer.get([submit(NAP_S) for _ in range(calls)], 1.3 * ideal_s + 2))

    killer = threading.Timer(ideal_s * KILLED_AFTER, os.kill, (victim, signal.SIGKILL))
    killer.start()
    try:
        killed_s = seconds_of(work)
    except BrokenExecutor as error:
        raise Said("pool broken") from error
    except PoolTimeoutError as error:
        raise Said("call lost") from error
    finally:
        killer.cancel()
    assert len(pids[0]) == calls
    assert not is_alive(victim)
    assert pids[0].count(victim) < calls / 2
    return {"extra": killed_s - seconds_of(work), "whole": killed_s}


ROWS = [
    Row(
        "killed",
        "{} x 50 ms on two workers, one killed: extra time",
        "killed",
        {
            "extra": spent("", "s", Target(0.15)),
            "whole": spent("with the death", "s", is_shown=False),
        },
        one_killed,
        200,
        least=40,
    ),
]
