"""One repetition of one peer, in a process of its own.

So no peer sees the threads, the memory or the warm caches of another, and a peer that needs an
environment of its own is measured by that environment's interpreter.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from bench import calls, objects, starts
from bench.peers import PEERS, Peer
from bench.rows import Figures, Row
from bench.work import nothing

ROWS: dict[str, Row] = {row.name: row for row in (*calls.ROWS, *objects.ROWS, *starts.ROWS)}
WARM_UP_CALLS = 200


class Findings:
    """What one repetition found: row → figures of the peer and beside it, and what went wrong."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Figures]] = {}
        self.failures: list[str] = []

    def add(self, peer: Peer, row: Row) -> None:
        """A row that fails is reported; the others are still measured."""
        try:
            beside = row.beside() if row.beside is not None else {}
            self.rows[row.name] = {"peer": row.measure(peer), "beside": beside}
        except Exception as error:
            self.failures.append(f"{peer.name}, {row.name}: {type(error).__name__}: {error}")


def measure(peer: Peer, rows: Iterable[Row], workers: int) -> Findings:
    """The cold rows, then, with the peer running and warm, the others."""
    found = Findings()
    cold = [row for row in rows if row.is_cold]
    warm = [row for row in rows if not row.is_cold]
    for row in cold:
        found.add(peer, row)
    if not warm:
        return found
    peer.start(workers)
    try:
        submit = peer.task(nothing)
        peer.get([submit() for _ in range(WARM_UP_CALLS)])
        for row in warm:
            found.add(peer, row)
    finally:
        peer.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one peer once.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("rows", nargs="+", choices=ROWS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    rows = [ROWS[name] for name in chosen.rows]
    found = measure(PEERS[chosen.peer](), rows, chosen.workers)
    chosen.out.write_text(json.dumps({"rows": found.rows, "failures": found.failures}))


if __name__ == "__main__":
    main()
