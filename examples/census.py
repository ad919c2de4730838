"""A census of Python's standard library: some 1,500 source files measured, and their functions
searched for near-duplicates, on every core of this machine.

    python examples/census.py [--files N] [--workers N | --inline] [--one-process | --no-compare]
                             [--json]

The work is a graph of six tasks. Each takes what others return; refs are passed from task to
task, so the driver never sees a file, a shape or a sketch, only the final table:

    measure ──► figures ──────────────────► add_areas (a tree) ──┐
       └──────► shapes ──► sketch ──┬─► find_links ─┐            ├─► conclude
                        (all of them)└─► find_links ─┴─► merge_links ┘

Then the same functions run in this process, one after the other; the tables must be equal.
"""

import argparse
import json
import os
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from census_measure import Figures, Shape, measure_files, sum_of_areas
from census_table import as_json, show_census, show_times
from census_twins import Census, Link, Sketched, families_in, forest, links_between, sketches_of

import fabric
from fabric import task

BATCHES = 32
PARTS = 4

Areas = dict[str, Figures]
Call = Callable[..., Any]
"""Runs a task on some arguments: on the fabric, where they may be refs, or right here."""


@task(num_returns=2)
def measure(root: Path, paths: list[str]) -> tuple[Areas, list[Shape]]:
    """Parse a batch of files. The shapes are large: they wait in shared memory until taken."""
    return measure_files(root, paths)


@task
def add_areas(left: Areas, right: Areas) -> Areas:
    return sum_of_areas(left, right)


@task
def sketch(shapes: list[Shape]) -> list[Sketched]:
    return sketches_of(shapes)


@task
def find_links(part: int, *batches: list[Sketched]) -> list[Link]:
    """Near-duplicates among all functions, as far as they fall into this part of the search."""
    return links_between([one for batch in batches for one in batch], part, PARTS)


@task
def merge_links(left: list[Link], right: list[Link]) -> list[Link]:
    return forest(left + right)


@task
def conclude(areas: Areas, links: list[Link]) -> Census:
    return Census(areas, families_in(links))


def take_census(call: Call, root: Path, batches: list[list[str]]) -> Any:
    """The whole graph. Nothing in it says whether `call` runs a task here or elsewhere."""
    figures, sketches = [], []
    for paths in batches:
        areas, shapes = call(measure, root, paths)
        figures.append(areas)
        sketches.append(call(sketch, shapes))
    links = [call(find_links, part, *sketches) for part in range(PARTS)]
    return call(
        conclude, reduce_in_tree(call, add_areas, figures), reduce_in_tree(call, merge_links, links)
    )


def reduce_in_tree(call: Call, merge: Call, parts: list[Any]) -> Any:
    """Merge neighbours until one is left: as deep as the logarithm of their number."""
    while len(parts) > 1:
        merged = [
            call(merge, left, right) for left, right in zip(parts[::2], parts[1::2], strict=False)
        ]
        parts = merged + parts[2 * len(merged) :]
    return parts[0]


class Run(NamedTuple):
    """A census and what it took."""

    census: Census
    seconds: float
    note: str = ""


def run_here(root: Path, batches: list[list[str]]) -> Run:
    """In this process: a task that is called like a function is one."""
    began = time.perf_counter()
    census = take_census(lambda function, *arguments: function(*arguments), root, batches)
    return Run(census, time.perf_counter() - began)


def run_on_fabric(root: Path, batches: list[list[str]], chosen: argparse.Namespace) -> Run:
    """On worker processes. Calls return refs at once; a task runs when what it takes is there.

    With ``--inline`` there are none: each call runs where it is made, so a debugger can follow.
    """
    calls: list[Any] = []

    def call(function: Any, *arguments: Any) -> Any:
        result = function.remote(*arguments)
        calls.append(result[0] if isinstance(result, list) else result)
        return result

    began = time.perf_counter()
    with fabric.init(num_cpus=chosen.workers, inline=chosen.inline):
        started = time.perf_counter()
        final = take_census(call, root, batches)
        if not chosen.json:
            for _ in fabric.progress(calls):
                pass
        census = fabric.get(final)
        seconds = time.perf_counter() - began
    note = f"{len(calls)} tasks; {started - began:.2f} s of the time is the start of the fabric."
    return Run(census, seconds, note)


def library_files(root: Path, limit: int | None) -> list[str]:
    """The library's source files by name; with a limit, as many spread evenly over the list."""
    foreign = {"site-packages", "dist-packages", "__pycache__"}
    paths = (path.relative_to(root) for path in root.rglob("*.py") if path.is_file())
    files = sorted(str(path) for path in paths if foreign.isdisjoint(path.parts))
    if limit is None or limit >= len(files):
        return files
    return [files[index * len(files) // limit] for index in range(limit)]


def in_batches(root: Path, paths: list[str]) -> list[list[str]]:
    """Neighbouring files, about as many bytes in each batch."""
    sizes = [(root / path).stat().st_size for path in paths]
    batches: list[list[str]] = [[] for _ in range(BATCHES)]
    seen = 0
    for path, size in zip(paths, sizes, strict=True):
        batches[seen * BATCHES // sum(sizes)].append(path)
        seen += size
    return [batch for batch in batches if batch]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A census of Python's standard library.")
    parser.add_argument(
        "--files", type=int, metavar="N", help="only N files, spread over the library"
    )
    parser.add_argument("--workers", type=int, metavar="N", default=len(os.sched_getaffinity(0)))
    parser.add_argument("--inline", action="store_true", help="on the fabric's inline mode")
    parser.add_argument("--one-process", action="store_true", help="without the fabric")
    parser.add_argument("--no-compare", action="store_true", help="without the run in one process")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    root = Path(sysconfig.get_path("stdlib"))
    batches = in_batches(root, library_files(root, chosen.files))
    runs: dict[str, Run] = {}
    if not chosen.one_process:
        name = "fabric, inline" if chosen.inline else f"fabric, {chosen.workers} workers"
        runs[name] = run_on_fabric(root, batches, chosen)
    if chosen.one_process or not chosen.no_compare:
        runs["one process"] = run_here(root, batches)
    first, *others = (run.census for run in runs.values())
    assert all(first == other for other in others), "the fabric and one process disagree"
    seconds = {name: run.seconds for name, run in runs.items()}
    if chosen.json:
        print(json.dumps(as_json(first) | {"seconds": seconds, "equal": True if others else None}))
    else:
        show_census(first)
        show_times(seconds, " ".join(run.note for run in runs.values()))


if __name__ == "__main__":
    main()
