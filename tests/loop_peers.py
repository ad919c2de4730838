"""A machine that only notes what it hears, and processes around it, for the tests of the loop.

Run as a program it is one of those processes: ``python -m tests.loop_peers worker <dir> <hex> <n>``
speaks n frames to the first who dials it, gives them all to the kernel and dies by SIGKILL;
``node <dir> <hex>`` answers until it is killed.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

from fabric.config import Limits
from fabric.core.effects import Effect, Send
from fabric.core.endpoint import Endpoint
from fabric.core.events import SELF, Ask, Event
from fabric.ids import Address, FunctionId
from fabric.protocol.messages import AnyMessage, FunctionFound, GetFunction
from fabric.runtime import sockets
from fabric.runtime.loop import Loop

CLUSTER = "test"


def asking(number: int) -> GetFunction:
    """The question with that number."""
    return GetFunction(FunctionId(number.to_bytes(16, "big")))


def saying(peer: Address, number: int) -> Ask:
    """The event that makes `Notes` ask a peer that question."""
    return Ask(peer.encode(), asking(number))


class Notes:
    """Asks what it is told to ask, answers what it is asked, and notes everything else."""

    def __init__(self) -> None:
        self.heard: list[tuple[Address, AnyMessage | Event]] = []
        self.says: list[Effect] = []
        self.due: float | None = None
        self.ticks: list[float] = []

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        if isinstance(message, Ask):
            return [Send(Address(message.request.decode()), message.message)]
        self.heard.append((source, message))
        if isinstance(message, GetFunction):
            return [Send(source, FunctionFound(message.function, "", b""))]
        return []

    def tick(self, now: float) -> list[Effect]:
        self.ticks.append(now)
        if self.due is not None and self.due <= now:
            self.due = None
        says, self.says = self.says, []
        return says

    def deadline(self) -> float | None:
        return self.due

    def check(self) -> None:
        pass

    def snapshot(self) -> Mapping[str, object]:
        return {}

    def numbers(self, only: Address | None = None) -> list[int]:
        """The numbers of the questions and answers heard, in order."""
        return [
            int.from_bytes(message.function, "big")
            for source, message in self.heard
            if isinstance(message, GetFunction | FunctionFound) and only in (None, source)
        ]

    def events(self) -> list[AnyMessage | Event]:
        return [message for source, message in self.heard if source == SELF]


def endpoint_of(own: Address, machine: Notes) -> Endpoint:
    return Endpoint(own, machine, cluster=CLUSTER, limits=Limits())


def ignore(effect: Effect) -> None:
    raise AssertionError(f"nobody performs {effect}")


def run(own: Address, directory: str, act: Callable[[Loop, Notes], None]) -> None:
    """A process with one loop: tells that it listens, then does that."""
    context = sockets.new_context()
    machine = Notes()
    loop = Loop(endpoint_of(own, machine), context, directory, clock=time.monotonic, perform=ignore)
    print("listening", flush=True)
    act(loop, machine)
    loop.close(10.0)
    context.term()


def main() -> None:
    kind, directory, own = sys.argv[1], sys.argv[2], Address(sys.argv[3])

    def speak(loop: Loop, machine: Notes) -> None:
        while not machine.heard:
            loop.turn(1.0)
        for number in range(1, int(sys.argv[4])):
            loop.tell(saying(machine.heard[0][0], number))
            loop.turn(0.0)

    def answer(loop: Loop, machine: Notes) -> None:
        while True:
            loop.turn(1.0)

    run(own, directory, speak if kind == "worker" else answer)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
