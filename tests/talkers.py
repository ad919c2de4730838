"""Endpoints for tests: their machine does what the test says, their frames can be read.

Nothing is carried between them unless the test carries it.
"""

from collections.abc import Mapping

from fabric.config import Limits
from fabric.core.effects import (
    Commit,
    Effect,
    Publish,
    Send,
    StopWorker,
    Transmit,
    UnlinkSegment,
)
from fabric.core.endpoint import Endpoint
from fabric.core.events import Event
from fabric.core.machine import InvariantError
from fabric.ids import Address, Incarnation
from fabric.protocol.cluster import ViewChanged
from fabric.protocol.frames import (
    ACK,
    BEAT,
    DATA,
    HEADER_BYTES,
    HELLO,
    UNKNOWN,
    decode_messages,
    unpack_header,
)
from fabric.protocol.messages import AnyMessage, EndWorker

A, B, C = (Address(f"n:{name * 16}") for name in "abc")
LIMITS = Limits(beat_s=1.0)
KINDS = {HELLO: "HELLO", DATA: "DATA", BEAT: "BEAT", ACK: "ACK", UNKNOWN: "UNKNOWN"}
STOP, UNLINK = StopWorker(Incarnation(b"w" * 8)), UnlinkSegment("segment")
COMMIT, NEWS = Commit(()), Publish(ViewChanged(1, 1))


class Script:
    """A machine that does what the test says, and remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[Address, AnyMessage | Event]] = []
        self.answers: dict[AnyMessage | Event, list[Effect]] = {}
        self.at_tick: list[Effect] = []
        self.due: float | None = None
        self.is_sound = True

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        self.heard.append((source, message))
        return self.answers.get(message, [])

    def tick(self, now: float) -> list[Effect]:
        effects, self.at_tick = self.at_tick, []
        return effects

    def deadline(self) -> float | None:
        return self.due

    def check(self) -> None:
        if not self.is_sound:
            raise InvariantError("unsound")

    def snapshot(self) -> Mapping[str, object]:
        return {}


class Talker(Endpoint):
    """An endpoint whose machine is a script."""

    def __init__(self, address: Address, limits: Limits = LIMITS, cluster: str = "cluster") -> None:
        self.script = Script()
        super().__init__(address, self.script, cluster=cluster, limits=limits)

    def say(self, *effects: Effect, now: float = 0.0) -> list[Effect]:
        """A turn in which the machine wants all this."""
        self.script.at_tick = list(effects)
        return self.turn(now)

    def says(self, *effects: Effect, now: float = 0.0) -> list[object]:
        return read(self.say(*effects, now=now))


def read(effects: list[Effect]) -> list[object]:
    """Effects with their frames as tuples: peer, kind, seq, ack, messages."""
    return [read_frame(each) if isinstance(each, Transmit) else each for each in effects]


def read_frame(effect: Transmit) -> tuple[object, ...]:
    kind, _, seq, ack = unpack_header(effect.frame)
    said = decode_messages(effect.frame[HEADER_BYTES:]) if kind == DATA else []
    return (effect.peer, KINDS[kind], seq, ack, *said)


def carry(effects: list[Effect], target: Endpoint, source: Address, now: float = 0.0) -> None:
    """These frames arrive."""
    for each in effects:
        if isinstance(each, Transmit) and each.peer == target.address:
            target.hear(source, each.frame, now)


def pair(limits: Limits = LIMITS) -> tuple[Talker, Talker]:
    """Two endpoints that have said one thing to each other, and owe each other nothing."""
    a, b = Talker(A, limits), Talker(B, limits)
    carry(a.say(Send(B, EndWorker())), b, A)
    carry(b.say(Send(A, EndWorker())), a, B)
    carry(a.turn(0.0) + a.turn(LIMITS.beat_s / 2), b, A)
    b.turn(LIMITS.beat_s / 2)
    assert [a.deadline(), b.deadline()] == [None, None]
    a.script.heard.clear()
    b.script.heard.clear()
    return a, b
