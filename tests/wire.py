"""A wire for tests of links: two sides, what is in flight between them, and the time.

It carries frames as libzmq does: in order, and a reset loses all in flight without a word. Time is
moved by the test, to the next deadline when nothing is under way.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from fabric.config import Limits
from fabric.core.link import Link
from fabric.ids import Address
from fabric.protocol.frames import (
    ACK,
    BEAT,
    DATA,
    HEADER,
    HELLO,
    UNKNOWN,
    Hello,
    encode_hello,
    link_number,
    unpack_header,
)

A, B = Address("c:0a0a0a0a0a0a0a0a"), Address("w:0b0b0b0b0b0b0b0b")
LIMITS = Limits(beat_s=1.0)
ONE = replace(LIMITS, link_frames_max=1, link_bytes_max=1)
KINDS = {HELLO: "HELLO", DATA: "DATA", BEAT: "BEAT", ACK: "ACK", UNKNOWN: "UNKNOWN"}


@dataclass
class Side:
    """One side of a link, and what it said and heard."""

    address: Address
    peer: Address
    limits: Limits
    lives: Iterator[int] = field(default_factory=lambda: count(1))
    said: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    commits: int = 0

    def __post_init__(self) -> None:
        self.link = self.make_link()

    def make_link(self, cluster: str = "cluster") -> Link:
        return Link(self.address, self.peer, self.lives, cluster=cluster, limits=self.limits)


class Wire:
    """Two sides, what is in flight between them, and the time."""

    def __init__(self, limits: Limits = LIMITS, limits_of_b: Limits | None = None) -> None:
        self.a, self.b = Side(A, B, limits), Side(B, A, limits_of_b or limits)
        self.b.link.speak(0.0)  # b listens: what it would say first is not heard
        self.toward: dict[Address, deque[bytes]] = {A: deque(), B: deque()}
        self.now = 0.0
        self.log: list[str] = []

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.a, self.b

    def speak(self, side: Side) -> None:
        self.put(side, side.link.speak(self.now))
        side.link.check()

    def put(self, side: Side, frames: list[bytes]) -> None:
        self.toward[side.peer].extend(frames)
        for frame in frames:
            kind, _, seq, ack = unpack_header(frame)
            self.log.append(f"{side.address[0]} {KINDS[kind]} {seq} {ack}")

    def say(self, side: Side, body: bytes) -> None:
        side.said.append(body)
        side.link.queue(body)
        self.speak(side)

    def repeat(self, side: Side) -> None:
        side.link.repeat()
        self.speak(side)

    def hear(self, side: Side, frame: bytes, commit: int = 0) -> None:
        body = side.link.hear(frame, self.now)
        if body is not None:
            side.heard.append(bytes(body))
        side.link.settle(self.now, commit)
        self.speak(side)

    def deliver(self, side: Side) -> None:
        """The next frame arrives at that side."""
        self.hear(side, self.toward[side.address].popleft())

    def reset(self) -> None:
        """The connection breaks: all in flight is gone, and nobody is told."""
        for frames in self.toward.values():
            frames.clear()

    def duplicate(self) -> None:
        """All that is in flight arrives twice."""
        for frames in self.toward.values():
            frames.extend(list(frames))

    def step(self) -> bool:
        """One frame arrives, where more are waiting, or else time passes; False when quiet."""
        frames = max(self.toward.items(), key=lambda each: len(each[1]))
        if frames[1]:
            self.deliver(self.a if frames[0] == A else self.b)
            return True
        times = [at for side in self.sides if (at := side.link.deadline()) is not None]
        if not times:
            return False
        self.now = max(self.now, min(times))
        for side in self.sides:
            self.speak(side)
        return True

    def run(self) -> None:
        """Until all is quiet."""
        for _ in range(2000):
            if not self.step():
                return
        raise AssertionError(f"no end to it: {self.log[-20:]}")

    def check(self) -> None:
        """What arrived is what was said, once and in order, and nothing is left to do."""
        assert self.a.heard == self.b.said
        assert self.b.heard == self.a.said
        for side in self.sides:
            figures = side.link.snapshot()
            assert (figures["in_flight"], figures["backlog"]) == (0, 0)
            assert side.link.deadline() is None

    def figure(self, name: str) -> int:
        """A counter, both sides together."""
        return sum(int(str(side.link.snapshot()[name])) for side in self.sides)


def established(limits: Limits = LIMITS) -> Wire:
    """A wire whose sides know each other and owe each other nothing."""
    wire = Wire(limits)
    wire.say(wire.a, b"first")
    wire.run()
    wire.log.clear()
    return wire


def hello_frame(sender: Address, hearer: Address, hello: Hello) -> bytes:
    return HEADER.pack(HELLO, link_number(sender, hearer, hello.life), 0, 0) + encode_hello(hello)
