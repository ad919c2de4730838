"""``get``, Ctrl-C, ``get``, for ever: ``python -m tests.strikes --times 10000 --seed 1``.

One process, one session. Each time a call is made and waited for while a thread sends SIGINT at a
drawn instant, anywhere from the making of the call to after its value came; then the fabric has to
be as usable as before.
"""

import argparse
import random
import signal
import sys
import threading
import time
from typing import Any

import fabric

SPAN_S = 0.0006
"""Strikes fall within so long of the call's making."""

SETTLE_S = 10.0


@fabric.task
def echo(value: Any) -> Any:
    """What it is given."""
    return value


def strike_waits(times: int, seed: int) -> int:
    """How many interrupts were raised, which is each one; raises where anything goes wrong."""
    drawn, struck = random.Random(seed), 0
    for number in range(times):
        if strike_once(number, drawn.uniform(0, SPAN_S)):
            struck += 1
        if echo.remote(-number).get(SETTLE_S) != -number:
            raise AssertionError(f"strike {number}: another call's value")
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            raise AssertionError(f"strike {number}: a handler was left behind")
    return struck


def strike_once(number: int, delay_s: float) -> bool:
    """Whether the interrupt was raised; it falls at that time, in whatever runs then."""
    begin, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def strike() -> None:
        begin.wait()
        until = time.perf_counter() + delay_s
        while time.perf_counter() < until:
            pass
        signal.pthread_kill(main, signal.SIGINT)

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        begin.set()
        if echo.remote(number).get(SETTLE_S) != number:
            raise AssertionError(f"strike {number}: another call's value")
        striker.join()
        time.sleep(SETTLE_S)  # it has been sent: it strikes here at the latest
    except KeyboardInterrupt:
        striker.join()
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.strikes", description=__doc__)
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with fabric.init(num_cpus=2):
        struck = strike_waits(chosen.times, chosen.seed)
        print(f"{struck:,} of {chosen.times:,} interrupts raised, and every call answered after it")
    return 0 if struck == chosen.times else 1


if __name__ == "__main__":
    sys.exit(main())
