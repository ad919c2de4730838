"""A process that commits until it is killed or its disk refuses: ``python -m tests.journal_child``.

Arguments: the journal's path, ``synced`` or ``unsynced``, and the largest file it may write in
bytes (0 for no limit). Each number that is durable is printed, so that the test knows what must
be found again.
"""

import resource
import select
import signal
import sys

from fabric.exceptions import FabricError
from fabric.ids import FunctionId
from fabric.protocol.records import FunctionRecord
from fabric.runtime.journal import Journal

WINDOW = 50
"""Commits that may wait at a time."""

ROW_BYTES = 500


def main() -> None:
    """Commit one row after another."""
    path, synced, file_bytes_max = sys.argv[1:]
    journal = Journal(path, synced == "synced")
    said = max((int.from_bytes(key, "big") for key in journal.load()["functions"]), default=0)
    if int(file_bytes_max):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes_max), int(file_bytes_max)))
    durable = said
    while True:
        while said < durable + WINDOW:
            said += 1
            key = FunctionId(said.to_bytes(8, "big"))
            journal.commit(said, [("functions", key, FunctionRecord(key, "", bytes(ROW_BYTES)))])
        select.select([journal.fileno()], [], [])
        try:
            durable = max(durable, journal.finished())
        except FabricError as error:
            print(type(error).__name__, error.text, flush=True)
            sys.exit(1)
        print(durable, flush=True)


if __name__ == "__main__":
    main()
