"""Loops around `tests.loop_peers.Notes` in one process, turned by hand, for tests of the loop."""

import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from fabric.core.effects import Effect
from fabric.ids import Address
from fabric.runtime import sockets
from fabric.runtime.loop import Loop
from tests.loop_peers import Notes, endpoint_of

C1 = Address("c:00000000000000c1")
C2 = Address("c:00000000000000c2")
W1 = Address("w:00000000000000a1")
N1 = Address("n:00000000000000b1")
S1 = Address("s:00000000000000d1")

PATIENCE_S = 10.0


class Party:
    """Loops of one process, in one thread, in one directory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.context = sockets.new_context()
        self.loops: list[Loop] = []
        self.skew_s = 0.0
        self.performed: list[Effect] = []

    def clock(self) -> float:
        return time.monotonic() + self.skew_s

    def join(self, own: Address, *, publishes: bool = False) -> tuple[Loop, Notes]:
        machine = Notes()
        loop = Loop(
            endpoint_of(own, machine),
            self.context,
            self.directory,
            clock=self.clock,
            perform=self.performed.append,
            publishes=publishes,
        )
        self.loops.append(loop)
        return loop, machine

    def until(self, is_so: Callable[[], object]) -> None:
        """Turn all loops until that is so."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < give_up_at, "it did not come about"
            for loop in self.loops:
                loop.turn(0.002)

    def leave(self) -> None:
        for loop in self.loops:
            loop.close(0.0)
        self.loops.clear()
        self.context.term()


@pytest.fixture
def party() -> Iterator[Party]:
    with tempfile.TemporaryDirectory(prefix="fb-", dir="/tmp") as directory:
        made = Party(directory)
        yield made
        made.leave()


def wait_for(is_so: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_at, "it did not come about"
        time.sleep(0.001)
