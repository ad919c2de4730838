"""Does memory stay flat? ``python -m bench.soak [--calls N] [--actors N] [--json FILE]``.

First so many task calls, then so many actors, each created, called once and dropped, on one private
fabric; meanwhile the memory of every process is read from the kernel. Shown are each process that
lived through a phase, what all workers have together, and the slope, fitted to what came after the
first fifth. Nothing is asserted: what grows is for whoever reads the table to explain.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.machine import commit, machine
from bench.processes import PROC, anonymous_mb, descendants, is_alive, pss_mb, rss_mb
from bench.work import Counter, nothing, same

CALLS_A_ROUND = 5_000
ACTORS_A_ROUND = 20
SAMPLES = 60
WARM_UP = 0.2
"""Of the samples, at the begin: caches fill, allocators find their level."""
ALL_WORKERS = "all workers together"
SHARED_MEMORY = Path("/dev/shm")


@dataclass
class Memory:
    """One process at one moment, in MB, and how many descriptors it has open."""

    pss: float
    rss: float
    anonymous: float
    descriptors: int


Sample = dict[str, Memory]
"""Name and pid → its memory."""


@dataclass
class Phase:
    """So many calls or actors, and what the processes had after how many of them."""

    title: str
    counts: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    shared_mb: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def warm(self) -> int:
        return int(len(self.counts) * WARM_UP)

    def lasting(self) -> list[str]:
        """Who lived from the end of the warm-up to the end of the phase."""
        return [
            name
            for name in self.samples[-1]
            if all(name in sample for sample in self.samples[self.warm() :])
        ]

    def slope_kb(self, name: str) -> float:
        """Least squares: KB of anonymous memory for each thousand, after the warm-up."""
        counts = [count / 1e3 for count in self.counts[self.warm() :]]
        sizes = [sample[name].anonymous * 1e3 for sample in self.samples[self.warm() :]]
        mean_count, mean_size = sum(counts) / len(counts), sum(sizes) / len(sizes)
        spread = sum((count - mean_count) ** 2 for count in counts)
        both = zip(counts, sizes, strict=True)
        return sum((x - mean_count) * (y - mean_size) for x, y in both) / spread if spread else 0.0


def memory_of(pid: int) -> Memory:
    try:
        descriptors = len(os.listdir(PROC / str(pid) / "fd"))
    except (FileNotFoundError, ProcessLookupError):
        descriptors = 0
    return Memory(pss_mb([pid]), rss_mb(pid), anonymous_mb(pid), descriptors)


def sample() -> Sample:
    """This process and everything below it; workers also as one, since they come and go."""
    found = {f"driver {os.getpid()}": memory_of(os.getpid())}
    workers = Memory(0, 0, 0, 0)
    for pid in descendants():
        try:
            name = (PROC / str(pid) / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not is_alive(pid):
            continue
        memory = found[f"{name} {pid}"] = memory_of(pid)
        if "worker" in name:
            workers.pss += memory.pss
            workers.rss += memory.rss
            workers.anonymous += memory.anonymous
            workers.descriptors += memory.descriptors
    return found | {ALL_WORKERS: workers}


def call_round(fabric: Any) -> Callable[[int], None]:
    """Calls with and without values, some of them dependent, all results taken."""
    empty, echo = fabric.task(nothing).remote, fabric.task(same).remote

    def run(calls: int) -> None:
        refs = [empty() for _ in range(calls // 2)]
        refs += [echo(echo(number)) for number in range((calls - len(refs)) // 2)]
        fabric.get(refs)

    return run


def actor_round(fabric: Any) -> Callable[[int], None]:
    kind = fabric.actor(Counter)

    def run(actors: int) -> None:
        handles = [kind.remote() for _ in range(actors)]
        assert fabric.get([handle.add.remote(1) for handle in handles]) == [1] * actors

    return run


def soaked(title: str, run: Callable[[int], None], total: int, size: int) -> Iterator[Phase]:
    """Rounds until the total is reached; the phase so far, after each."""
    phase, began, done, due = Phase(title), time.perf_counter(), 0, 0.0
    while done < total:
        run(min(size, total - done))
        done += min(size, total - done)
        if done >= due or done == total:
            phase.counts.append(done)
            phase.samples.append(sample())
            phase.shared_mb.append(_shared_mb())
            due += total / SAMPLES
        phase.seconds = time.perf_counter() - began
        yield phase


def _shared_mb() -> float:
    """What fabric's segments take, of all fabrics on the machine."""
    return sum(entry.stat().st_blocks for entry in SHARED_MEMORY.glob("fb-*")) * 512 / 1e6


def table(phase: Phase) -> Table:
    what = f"{phase.counts[-1]:,} {phase.title} in {phase.seconds:,.0f} s"
    shown = Table(title=what, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    shown.add_column("MB")
    for name in ("PSS", "RSS", "anonymous: warm", "most", "end", "descriptors"):
        shown.add_column(name, justify="right")
    shown.add_column(f"KB per 1,000 {phase.title}", justify="right", style="bold")
    for name in phase.lasting():
        all_of_it = [found[name] for found in phase.samples[phase.warm() :]]
        first, last = all_of_it[0], all_of_it[-1]
        shown.add_row(
            name,
            f"{last.pss:.1f}",
            f"{last.rss:.1f}",
            f"{first.anonymous:.2f}",
            f"{max(each.anonymous for each in all_of_it):.2f}",
            f"{last.anonymous:.2f}",
            f"{first.descriptors} to {last.descriptors}",
            f"{phase.slope_kb(name):+.2f}",
        )
    shared = phase.shared_mb[phase.warm() :]
    shown.add_row("shared memory", "", "", f"{shared[0]:.2f}", f"{max(shared):.2f}", "", "", "")
    return shown


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--actors", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every sample there")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    fabric: Any = import_module("fabric")
    console, phases = Console(stderr=True), []
    with fabric.init(num_cpus=chosen.workers):
        plans = [
            ("calls", call_round(fabric), chosen.calls, CALLS_A_ROUND),
            ("actors", actor_round(fabric), chosen.actors, ACTORS_A_ROUND),
        ]
        for title, run, total, size in plans:
            if not total:
                continue
            with Progress(console=console, transient=True) as progress:
                bar = progress.add_task(title, total=total)
                for phase in soaked(title, run, total, size):
                    progress.update(bar, completed=phase.counts[-1])
            phases.append(phase)
            Console(width=None if sys.stdout.isatty() else 140).print(table(phase))
    if chosen.json:
        found = {"commit": commit(), "machine": machine(), "phases": [asdict(p) for p in phases]}
        chosen.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
