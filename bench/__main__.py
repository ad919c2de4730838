"""``python -m bench``: fabric and its peers side by side, alternated in one run, medians.

Every repetition of every peer is a process of its own (`bench.repetition`); the peers take turns,
so that whatever else the machine does hits all of them. Absolute numbers say little on a shared
machine, the ratios do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench.peers import PEERS
from bench.repetition import ROWS
from bench.report import BESIDE, Samples, as_json, table
from bench.rows import Row

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", help="comma-separated: " + ", ".join(ROWS))
    parser.add_argument("--peers", help="comma-separated: " + ", ".join(PEERS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--python", metavar="FILE", help="the interpreter for peers that are not installed here"
    )
    return parser.parse_args()


def chosen_of(text: str | None, known: list[str], what: str) -> list[str]:
    names = text.split(",") if text else known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"unknown {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def measure(peer: str, rows: list[Row], python: str, workers: int, samples: Samples) -> None:
    """One repetition. A peer that fails is a failure to report, not the end of the run."""
    names = [row.name for row in rows if row.fits(PEERS[peer])]
    if not names:
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        out, errors = Path(directory) / "figures.json", Path(directory) / "errors"
        command = [python, "-m", "bench.repetition", peer, *names, "--out", str(out)]
        try:
            with errors.open("w") as stream:  # a pipe would stay open as long as any child of it
                subprocess.run(
                    [*command, "--workers", str(workers)],
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    timeout=TIMEOUT_S,
                    stdout=subprocess.DEVNULL,
                    stderr=stream,
                    check=True,
                )
        except subprocess.SubprocessError as error:
            last = errors.read_text().strip().splitlines()[-1:]
            samples.failures.append(f"{peer}: {' '.join(last) or error}")
            return
        found = json.loads(out.read_text())
    samples.failures += found["failures"]
    for row, figures in found["rows"].items():
        samples.add(peer, row, figures["peer"])
        samples.add(BESIDE, row, figures["beside"])


def warn_if_loaded(console: Console) -> None:
    load, cpus = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > 0.3 * cpus:
        console.print(
            f"[yellow]The machine is busy: load {load:.1f} on {cpus} processors. Ratios still mean "
            "something, absolute numbers do not.[/]"
        )


def main() -> None:
    chosen = options()
    console = Console(stderr=True)
    warn_if_loaded(console)
    rows = [ROWS[name] for name in chosen_of(chosen.rows, list(ROWS), "rows")]
    pythons = {}
    for peer in chosen_of(chosen.peers, list(PEERS), "peers"):
        if PEERS[peer].is_installed():
            pythons[peer] = sys.executable
        elif chosen.python:
            pythons[peer] = chosen.python
        else:
            console.print(f"[dim]{peer} is not installed here: left out[/]")
    samples = Samples()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=chosen.repetitions * len(pythons))
        for _ in range(chosen.repetitions):
            for peer, python in pythons.items():
                progress.update(bar, description=peer)
                measure(peer, rows, python, chosen.workers, samples)
                progress.advance(bar)
    for failure in dict.fromkeys(samples.failures):
        console.print(f"failed ({samples.failures.count(failure)} times) {failure}", markup=False)
    shown = Console(width=None if sys.stdout.isatty() else 120)
    shown.print(table(samples, rows, list(pythons)))
    if chosen.json:
        text = json.dumps(as_json(samples, rows, list(pythons), chosen.repetitions), indent=1)
        chosen.json.write_text(text + "\n")
    if samples.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
