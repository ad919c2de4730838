"""One family of rows, of one system, once, in a process of its own.

So no system sees the threads, the memory or the warm caches of another, and a peer that needs an
environment of its own is measured by that environment's interpreter. Every finding is one line of
JSON to the descriptor that is given, at once: whoever waits can tell which row hangs.
"""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from bench.peer import Peer, Said
from bench.peers import BARE, PEERS
from bench.processes import adopt_orphans
from bench.rows import Row
from bench.table import ROWS
from bench.work import nap, nothing

WARM_UP_CALLS = 200
WARM_UP_NAP_S = 0.05

Finding = dict[str, Any]
"""``row`` and one of ``figures``, ``said``, ``failure``."""


def find(system: str, row: Row, peer: Peer | None, scale: float) -> Finding:
    """A row that fails is reported; the others are still measured."""
    count = row.count_for(system, scale)
    finding: Finding = {"row": row.name, "count": count}
    try:
        if peer is None:
            assert row.bare is not None
            return finding | {"figures": row.bare(max(count, 2))}
        return finding | {"figures": row.measure(peer, count)}
    except Said as said:
        return finding | {"said": str(said)}
    except Exception as error:
        return finding | {"failure": f"{type(error).__name__}: {error}"}


def start(peer: Peer, rows: list[Row], workers: int) -> bool:
    """Start it as these rows need it, every worker at work once; whether it has to be stopped."""
    if rows[0].start == "cold":
        return False
    if rows[0].start == "shared":
        os.environ["BENCH_ADDRESS"] = peer.start_shared(workers)
    else:
        peer.start(workers)
    rest = peer.task(nap)
    peer.get([rest(WARM_UP_NAP_S) for _ in range(2 * workers)])
    if "submit" in peer.verbs:
        submit = peer.task(nothing)
        peer.get([submit() for _ in range(WARM_UP_CALLS)])
    return True


def findings(system: str, rows: list[Row], workers: int, scale: float) -> Iterator[Finding]:
    if system == BARE:
        for row in rows:
            yield find(system, row, None, scale)
        return
    peer = PEERS[system]()
    is_started, is_broken = start(peer, rows, workers), False
    try:
        for row in rows:
            finding = find(system, row, peer, scale)
            is_broken |= "said" in finding
            yield finding
    finally:
        if is_broken:  # and might wait for the dead for ever: whoever started us ends its processes
            os._exit(0)
        if is_started:
            peer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one system once.")
    parser.add_argument("system", choices=[*PEERS, BARE])
    parser.add_argument("rows", nargs="+", choices=ROWS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=int, required=True, help="a descriptor")
    chosen = parser.parse_args()
    os.set_inheritable(chosen.out, False)
    adopt_orphans()
    rows = [ROWS[name] for name in chosen.rows]
    for finding in findings(chosen.system, rows, chosen.workers, chosen.scale):
        os.write(chosen.out, json.dumps(finding).encode() + b"\n")


if __name__ == "__main__":
    main()
