"""Run seeds: ``python -m tests.sim --seeds 200``, or one again with its story: ``--replay 17``."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.sim.faults import Outcome, run_seed


def seeds_of(text: str) -> range:
    """``200`` is the first 200, ``a:b`` those from a up to b."""
    first, _, last = text.rpartition(":")
    return range(int(first or 0), int(last))


def outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    """Run them, in any order."""
    if jobs == 1:
        yield from map(run_seed, seeds)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(run_seed, seeds, chunksize=4)


def replay(seed: int, tail: int, about: str) -> int:
    """One seed, with the end of its story if it fails."""
    outcome = run_seed(seed, tail, about)
    if outcome.error or about:
        print("\n".join(outcome.tail))
    print(f"seed {seed}: {outcome.error or 'ok'}")
    print(f"{outcome.steps} steps, {outcome.seconds:.1f} s simulated, trace {outcome.digest}")
    print(f"`python -m tests.sim --replay {seed} --tail 500` tells more")
    return bool(outcome.error)


def many(seeds: range, jobs: int, stop: bool) -> int:
    """All of them; which failed, and how often each thing occurred."""
    started = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[Outcome] = []
    steps = done = 0
    for outcome in outcomes(seeds, jobs):
        done += 1
        counts += outcome.counts
        steps += outcome.steps
        if outcome.error:
            failed.append(outcome)
            print(f"seed {outcome.seed}: {outcome.error}", flush=True)
            if stop:
                break
    seconds = time.monotonic() - started
    for name in sorted(counts):
        print(f"{counts[name]:>9} {name}")
    print(f"{done} seeds, {done / seconds:.1f}/s, {steps / seconds:.0f} steps/s, ", end="")
    print(f"failed: {sorted(one.seed for one in failed) or 'none'}")
    return bool(failed)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", help="how many, or a range a:b")
    parser.add_argument("--seed", "--replay", type=int, dest="seed", help="one seed again")
    parser.add_argument("--tail", type=int, default=60, help="lines of the story")
    parser.add_argument("--about", default="", help="only lines that name this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--stop", action="store_true", help="at the first failure")
    given = parser.parse_args()
    if given.seed is not None:
        return replay(given.seed, given.tail, given.about)
    return many(seeds_of(given.seeds or "200"), given.jobs, given.stop)


if __name__ == "__main__":
    sys.exit(main())
