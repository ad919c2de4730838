"""A second driver: joins, runs one task, prints how many seconds that took, and leaves.

``python -m bench.second_driver PEER ADDRESS``, started by the row of that name.
"""

import os
import sys

from bench.clock import seconds_of
from bench.peers import PEERS
from bench.work import nothing


def main() -> None:
    name, address = sys.argv[1:]
    peer = PEERS[name]()
    said = os.dup(1)
    os.dup2(2, 1)  # what a peer prints is not the answer
    peer.join(address)
    submit = peer.task(nothing)
    os.write(said, str(seconds_of(lambda: peer.get_one(submit()))).encode())
    peer.stop()


if __name__ == "__main__":
    main()
