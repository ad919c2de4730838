"""The run: repetition after repetition, family after family, and in each the systems by turns.

So whatever else the machine does meets all of them. A row that takes too long is given up and said
to have; whatever a system leaves behind is killed before the next one starts, and reported.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.peers import BARE, PEERS
from bench.processes import end_descendants
from bench.repetition import Finding
from bench.rows import Row
from bench.samples import Samples

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
ROW_S_MAX = 60.0
START_S_MAX = 30.0
LEFTOVERS_S = 3.0
LOOK_S = 1.0


@dataclass(frozen=True)
class System:
    """Something to measure, and the interpreter it is measured with."""

    name: str
    python: str
    version: str


def systems_of(names: Iterable[str], python: str | None) -> dict[str, System]:
    """Those that are installed, here or in the environment of the peers; name → system."""
    there = python or (str(PEERS_PYTHON) if PEERS_PYTHON.exists() else "")
    versions = _versions_in(there) if there else {}
    found = {}
    for name in names:
        here = PEERS[name].version()
        if here is not None:
            found[name] = System(name, sys.executable, here)
        elif (version := versions.get(name)) is not None:
            found[name] = System(name, there, version)
    return found


def _versions_in(python: str) -> dict[str, str | None]:
    program = (
        "import json; from bench.peers import PEERS; "
        "print(json.dumps({name: peer.version() for name, peer in PEERS.items()}))"
    )
    said = subprocess.run(
        [python, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(said.stdout))


def families_of(rows: Iterable[Row], is_fresh: bool) -> list[list[Row]]:
    """Rows that share a process, in the order of the table."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.name if is_fresh else row.family, []).append(row)
    return list(families.values())


@dataclass(frozen=True)
class Turn:
    """A family of rows of one system: one process."""

    system: System
    rows: list[Row]

    def take(self, workers: int, scale: float, samples: Samples) -> list[Row]:
        """Measure once, and note what came out; the rows that failed."""
        name = self.system.name
        unseen, failed, is_broken = [row.name for row in self.rows], [], False
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as errors:
            try:
                for finding in self._findings(workers, scale, errors.fileno()):
                    unseen.remove(finding["row"])
                    if "failure" in finding:
                        failed.append(finding["row"])
                    is_broken |= "said" in finding
                    samples.add(name, finding)
                reason = ""
            except TurnFailed as failure:
                reason = str(failure)
            finally:
                left = end_descendants(0 if is_broken else LEFTOVERS_S)
            errors.seek(0)
            last = " ".join(errors.read().strip().splitlines()[-1:])[:200]
        turn = f"{self.rows[0].family}, {name}"
        samples.seconds[turn].append(round(time.monotonic() - began, 2))
        if reason or unseen:
            where = f"{name}, {unseen[0] if unseen else 'at its end'}"
            samples.failures.append(f"{where}: {reason or 'no figure'} {last}".strip())
        if left and not is_broken:
            samples.failures.append(f"{name}, {self.rows[-1].name}: left {', '.join(left)}")
        return [row for row in self.rows if row.name in unseen + failed]

    def _findings(self, workers: int, scale: float, errors: int) -> Iterator[Finding]:
        hear, say = os.pipe()
        command = [self.system.python, "-m", "bench.repetition", self.system.name]
        command += [row.name for row in self.rows]
        command += ["--workers", str(workers), "--scale", str(scale), "--out", str(say)]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[say],
        ) as measuring:
            os.close(say)
            try:
                yield from _lines(hear, measuring)
            finally:
                os.close(hear)
                if measuring.poll() is None:
                    measuring.kill()
        if measuring.returncode:
            raise TurnFailed(f"ended with {measuring.returncode}")


def turns(rows: Iterable[Row], systems: dict[str, System], is_fresh: bool) -> list[Turn]:
    """One repetition: every family, every system that has something to show in it."""
    found = []
    for family in families_of(rows, is_fresh):
        for system in systems.values():
            if fitting := [row for row in family if row.fits(PEERS[system.name])]:
                found.append(Turn(system, fitting))
        if beside := [row for row in family if row.bare is not None]:
            found.append(Turn(System(BARE, sys.executable, ""), beside))
    return found


class TurnFailed(Exception):
    """A process that measured did not come to its end."""


def _lines(hear: int, measuring: subprocess.Popen[bytes]) -> Iterator[Finding]:
    """Findings until the process ends; its children may hold the pipe open for longer."""
    heard, deadline = b"", time.monotonic() + START_S_MAX + ROW_S_MAX
    while True:
        is_ended = measuring.poll() is not None
        if select.select([hear], [], [], 0 if is_ended else LOOK_S)[0]:
            more = os.read(hear, 1 << 16)
            heard += more
            *lines, heard = heard.split(b"\n")
            for line in lines:
                deadline = time.monotonic() + ROW_S_MAX
                yield json.loads(line)
            if more:
                continue
            measuring.wait(START_S_MAX)
            return
        if is_ended:
            return
        if time.monotonic() > deadline:
            raise TurnFailed(f"given up after {ROW_S_MAX:.0f} s")
