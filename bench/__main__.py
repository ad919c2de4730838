"""``python -m bench``: fabric and its peers side by side, by turns in one run, medians.

Absolute numbers say little on a shared machine, the ratios do. Everything that came out is kept in
one file; ``--readme`` puts it into the README, unless the machine was loaded, repetitions are too
few or something is missing. Exit status: 1 if something failed, 3 to 5 if the README was refused.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench import quiet, readme
from bench.alternation import System, Turn, systems_of, turns
from bench.machine import commit, machine
from bench.peers import PEERS
from bench.processes import adopt_orphans
from bench.report import Run, run_of, table
from bench.rows import Row
from bench.samples import Samples
from bench.table import ROWS


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", help="comma-separated: " + ", ".join(ROWS))
    parser.add_argument("--peers", help="comma-separated: " + ", ".join(PEERS))
    parser.add_argument("--reps", type=int, default=5, help="repetitions (5)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="each row in a process of its own")
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: only to see it work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the run there")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: a kept run")
    parser.add_argument("--readme", action="store_true", help="write table and picture")
    parser.add_argument("--python", metavar="FILE", help="interpreter of the peers' environment")
    return parser.parse_args()


def chosen_of(text: str | None, known: list[str], what: str) -> list[str]:
    names = text.split(",") if text else known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"unknown {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def measured(chosen: argparse.Namespace, systems: dict[str, System], console: Console) -> Path:
    """Every repetition of every row of every system; kept after each, in case one is the last."""
    rows: list[Row] = [ROWS[name] for name in chosen_of(chosen.rows, list(ROWS), "rows")]
    versions = {system.name: system.version for system in systems.values()}
    run = Run(Samples(), rows, versions, 0, commit(), machine(), round(quiet.load(), 3), [])
    path: Path = chosen.json or run.path()
    path.parent.mkdir(parents=True, exist_ok=True)
    once = turns(rows, systems, chosen.fresh)
    adopt_orphans()  # what a turn leaves behind is found and ended
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=chosen.reps * len(once))
        for _ in range(chosen.reps):
            run.shares.append(round(quiet.share_we_get(), 3))
            for turn in once:
                progress.update(bar, description=f"{turn.rows[0].family}, {turn.system.name}")
                failed = turn.take(chosen.workers, chosen.scale, run.samples)
                if failed and turn.system.name != "fabric":  # a peer gets a second chance
                    Turn(turn.system, failed).take(chosen.workers, chosen.scale, run.samples)
                progress.advance(bar)
            run.repetitions += 1
            path.write_text(run.as_json())
    return path


def main() -> None:
    chosen = options()
    console = Console(stderr=True)
    path = chosen.show
    if path is None:
        try:
            if chosen.readme:  # rather now than after a quarter of an hour
                quiet.refuse_if_few(chosen.reps)
                quiet.refuse_if_loaded(quiet.load(), [quiet.share_we_get()])
        except quiet.Refusal as refusal:
            refused(refusal, console)
        systems = systems_of(chosen_of(chosen.peers, list(PEERS), "peers"), chosen.python)
        path = measured(chosen, systems, console)
    run = run_of(path.read_text())
    Console(width=None if sys.stdout.isatty() else 180).print(table(run))
    for failure in dict.fromkeys(run.samples.failures):
        times = run.samples.failures.count(failure)
        console.print(f"failed ({times} times) {failure}", markup=False, soft_wrap=True)
    console.print(f"kept in {path}", soft_wrap=True)
    if chosen.readme:
        try:
            readme.write(run, path)
        except quiet.Refusal as refusal:
            refused(refusal, console)
    if run.samples.failures:
        sys.exit(1)


def refused(refusal: quiet.Refusal, console: Console) -> None:
    console.print(f"{type(refusal).__name__}: {refusal}", markup=False, soft_wrap=True)
    sys.exit(refusal.status)


if __name__ == "__main__":
    main()
