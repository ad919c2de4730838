"""A link alone: a two-sided conversation, with everything going wrong at every step.

`Wire` carries frames between two sides as libzmq does: in order, and a reset loses all in flight
without a word. Time is moved by the test, to the next deadline when nothing is under way.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from fabric.config import Limits
from fabric.core.link import HelloRefused, Link, LinkForgotten
from fabric.core.machine import InvariantError
from fabric.ids import Address
from fabric.protocol.frames import (
    ACK,
    BEAT,
    DATA,
    HEADER,
    HELLO,
    UNKNOWN,
    FrameError,
    Hello,
    decode_hello,
    encode_hello,
    link_number,
    unpack_header,
)
from fabric.protocol.messages import PROTOCOL

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


# -- the normal course


def test_the_dialer_speaks_at_once_and_nothing_is_said_twice() -> None:
    wire = Wire()
    wire.say(wire.a, b"one")
    wire.say(wire.a, b"two")
    wire.run()
    wire.check()
    assert wire.log == [
        "c HELLO 0 0",
        "c DATA 1 0",
        "c DATA 2 0",
        "w HELLO 0 0",  # the answer overtakes nothing and repeats nothing
        "w ACK 0 2",
    ]
    assert wire.now == LIMITS.beat_s / 2


def test_an_acknowledgement_rides_on_what_is_said_anyway() -> None:
    wire = established()
    wire.say(wire.a, b"question")
    wire.deliver(wire.b)
    wire.say(wire.b, b"answer")
    wire.run()
    wire.check()
    assert wire.log == ["c DATA 2 0", "w DATA 1 2", "c ACK 2 1"]


def test_both_may_open_a_link_at_the_same_time() -> None:
    wire = Wire()
    wire.b.link = wire.b.make_link()
    wire.say(wire.a, b"from a")
    wire.say(wire.b, b"from b")
    wire.run()
    wire.check()
    assert wire.figure("resent") == 0


def test_a_quiet_link_has_no_deadline() -> None:
    wire = established()
    assert [side.link.deadline() for side in wire.sides] == [None, None]
    wire.now += 1000.0
    assert [side.link.speak(wire.now) for side in wire.sides] == [[], []]


def test_beats_come_only_while_something_is_unacknowledged() -> None:
    wire = established()
    wire.say(wire.a, b"lost")
    wire.reset()
    at = wire.now
    assert wire.a.link.deadline() == at + 1.0
    assert wire.a.link.speak(at + 0.9) == []
    assert [unpack_header(f)[0] for f in wire.a.link.speak(at + 1.0)] == [BEAT]
    assert wire.a.link.deadline() == at + 2.0


def test_a_lost_last_frame_is_found_within_one_beat() -> None:
    wire = established()
    wire.say(wire.a, b"last")
    wire.reset()
    at = wire.now
    while wire.b.heard[-1] != b"last":
        assert wire.step()
    assert wire.now == at + 1.0
    wire.run()
    wire.check()
    assert wire.log[:4] == ["c DATA 2 0", "c BEAT 2 0", "w HELLO 0 1", "c DATA 2 0"]


def test_a_lost_acknowledgement_is_said_again_when_the_beat_asks_for_it() -> None:
    wire = established()
    wire.say(wire.a, b"heard")
    wire.deliver(wire.b)
    wire.now += 0.5
    wire.speak(wire.b)
    wire.reset()
    wire.run()
    wire.check()
    assert wire.log == ["c DATA 2 0", "w ACK 0 2", "c BEAT 2 0", "w ACK 0 2"]


def test_a_gap_is_asked_for_once_and_everything_behind_it_is_said_again() -> None:
    wire = established()
    wire.say(wire.a, b"two")
    wire.reset()
    for word in (b"three", b"four", b"five"):
        wire.say(wire.a, word)
    wire.run()
    wire.check()
    assert wire.figure("gaps") == 1
    assert wire.figure("resent") == 4


def test_a_lost_question_for_a_gap_is_asked_again_at_the_next_beat() -> None:
    wire = established()
    wire.say(wire.a, b"two")
    wire.reset()
    wire.say(wire.a, b"three")
    wire.deliver(wire.b)
    wire.reset()
    wire.run()
    wire.check()
    assert wire.figure("gaps") == 2


# -- windows


@pytest.mark.parametrize(
    ("limits", "in_flight"),
    [
        (replace(LIMITS, link_frames_max=3), 3),
        (replace(LIMITS, link_bytes_max=10), 2),
        (replace(LIMITS, link_bytes_max=1), 1),  # one frame always may
    ],
)
def test_the_window_is_bounded_and_the_rest_waits_in_order(limits: Limits, in_flight: int) -> None:
    wire = Wire(limits)
    for number in range(10):
        wire.say(wire.a, b"word%d" % number)
    figures = wire.a.link.snapshot()
    assert (figures["in_flight"], figures["backlog"]) == (in_flight, 10 - in_flight)
    wire.run()
    wire.check()


@pytest.mark.parametrize(
    "limits", [replace(LIMITS, link_frames_max=8), replace(LIMITS, link_bytes_max=300), ONE]
)
def test_one_way_traffic_is_not_held_up_by_acknowledgements(limits: Limits) -> None:
    wire = Wire(limits)
    for number in range(100):
        wire.say(wire.a, b"word %04d" % number)
    while len(wire.b.heard) < 100:
        assert wire.step()
    assert wire.now == 0.0  # no beat was waited for
    wire.run()
    wire.check()


def test_the_last_words_leave_whatever_the_window() -> None:
    wire = established(ONE)
    for word in (b"two", b"three", b"four"):
        wire.say(wire.a, word)
    wire.put(wire.a, wire.a.link.last_words(wire.now))
    while wire.toward[B]:
        wire.deliver(wire.b)
    assert wire.b.heard == wire.a.said


def test_the_last_words_acknowledge_what_was_heard() -> None:
    wire = established()
    wire.say(wire.a, b"two")
    wire.deliver(wire.b)
    wire.put(wire.b, wire.b.link.last_words(wire.now))
    wire.deliver(wire.a)
    assert wire.a.link.deadline() is None


# -- durability


def test_only_settled_frames_are_acknowledged() -> None:
    wire = established()
    wire.say(wire.a, b"two")
    wire.hear(wire.b, wire.toward[B].popleft(), commit=1)
    wire.say(wire.a, b"three")
    wire.deliver(wire.b)  # its turn had no commit, but it may not overtake
    wire.say(wire.a, b"four")
    wire.hear(wire.b, wire.toward[B].popleft(), commit=2)
    wire.say(wire.b, b"answer")
    assert wire.b.link.committed(1, wire.now) is True
    wire.say(wire.b, b"answer")
    assert wire.b.link.committed(2, wire.now) is False
    wire.say(wire.b, b"answer")
    assert wire.log[3:] == ["w DATA 1 1", "w DATA 2 3", "w DATA 3 4"]
    assert wire.b.heard == wire.a.said


def test_what_was_heard_and_is_not_settled_need_not_be_said_again() -> None:
    wire = established()
    wire.say(wire.a, b"two")
    wire.hear(wire.b, wire.toward[B].popleft(), commit=1)
    wire.say(wire.a, b"three")
    wire.reset()
    wire.say(wire.a, b"four")
    wire.deliver(wire.b)
    wire.deliver(wire.a)
    assert wire.log[2:] == ["c DATA 4 0", "w HELLO 0 1", "c DATA 3 0", "c DATA 4 0"]


# -- resets at every step

SCRIPT = "a a . b . . a b . a . . b a . b"
"""Who speaks, and when one frame arrives."""

Fault = Callable[[Wire], None]


def lose_all(wire: Wire) -> None:
    wire.reset()


def lose_all_and_notice(wire: Wire) -> None:
    wire.reset()
    wire.repeat(wire.a)


def lose_all_and_both_notice(wire: Wire) -> None:
    wire.reset()
    wire.repeat(wire.a)
    wire.repeat(wire.b)


def notice_without_a_loss(wire: Wire) -> None:
    wire.repeat(wire.b)


def lose_one_direction(wire: Wire) -> None:
    wire.toward[A].clear()


def lose_the_other_direction(wire: Wire) -> None:
    wire.toward[B].clear()


def lose_the_next(wire: Wire) -> None:
    for frames in wire.toward.values():
        if frames:
            frames.popleft()


def repeat_all(wire: Wire) -> None:
    wire.duplicate()


FAULTS: tuple[Fault, ...] = (
    lose_all,
    lose_all_and_notice,
    lose_all_and_both_notice,
    notice_without_a_loss,
    lose_one_direction,
    lose_the_other_direction,
    lose_the_next,
    repeat_all,
)


def converse(wire: Wire, faults: dict[int, Fault]) -> int:
    """Run the script with these faults before these steps; the number of steps it took."""
    script = deque(SCRIPT.split())
    for step in range(2000):
        if step in faults:
            faults[step](wire)
        word = script.popleft() if script else "."
        if word == "." and not wire.step() and not script and step > max(faults, default=0):
            return step
        if word != ".":
            side = wire.a if word == "a" else wire.b
            wire.say(side, b"%s says %d" % (word.encode(), len(side.said)))
        for side, other in (wire.sides, wire.sides[::-1]):
            assert side.heard == other.said[: len(side.heard)]
    raise AssertionError(f"no end to it: {wire.log[-20:]}")


WINDOWS = {
    "wide": LIMITS,
    "one": ONE,
    "two": replace(LIMITS, link_frames_max=2),
    "ten bytes": replace(LIMITS, link_bytes_max=20),
}


def windows(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("limits", [WINDOWS[name] for name in names], ids=names)


@windows(*WINDOWS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_at_any_step_loses_and_repeats_nothing(fault: Fault, limits: Limits) -> None:
    for at in range(converse(Wire(limits), {}) + 1):
        wire = Wire(limits)
        converse(wire, {at: fault})
        wire.check()


@windows("wide", "one")
@pytest.mark.parametrize("second", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("first", [lose_all, lose_all_and_notice, repeat_all])
def test_two_faults_at_any_steps_lose_and_repeat_nothing(
    first: Fault, second: Fault, limits: Limits
) -> None:
    for at in range(converse(Wire(limits), {}) + 1):
        steps = converse(Wire(limits), {at: first})
        for then in range(at + 1, steps + 1):
            wire = Wire(limits)
            converse(wire, {at: first, then: second})
            wire.check()


@windows("wide", "one")
def test_a_reset_before_every_step_of_the_first_exchanges_only_delays_them(limits: Limits) -> None:
    for until in range(12):
        wire = Wire(limits)
        converse(wire, dict.fromkeys(range(until), lose_all))
        wire.check()


@pytest.mark.parametrize("seed", range(300))
def test_random_troubles_lose_and_repeat_nothing(seed: int) -> None:
    chance = random.Random(seed)
    wire = Wire(*[tiny_limits(chance) for _ in range(2)])
    for _ in range(chance.randrange(20, 120)):
        trouble_once(wire, chance)
    for side in wire.sides:
        side.link.committed(side.commits, wire.now)
        wire.speak(side)
    wire.run()
    wire.check()


def tiny_limits(chance: random.Random) -> Limits:
    return replace(
        LIMITS,
        link_frames_max=chance.choice([1, 1, 2, 3, 10]),
        link_bytes_max=chance.choice([1, 1, 5, 30, 1000]),
    )


TROUBLES = (
    *("say", "say", "hear", "hear", "hear", "lose", "reset", "again"),
    *("swap", "commit", "wait", "repeat"),
)


def trouble_once(wire: Wire, chance: random.Random) -> None:
    """One random thing: a word, an arrival, a loss, a repetition, an overtaking, a commit, time."""
    side = chance.choice(wire.sides)
    frames = wire.toward[side.address]
    match chance.choice(TROUBLES):
        case "say":
            wire.say(side, chance.randbytes(chance.randrange(1, 9)))
        case "hear" if frames:
            if chance.random() < 0.3:
                side.commits += 1
                wire.hear(side, frames.popleft(), commit=side.commits)
            else:
                wire.deliver(side)
        case "lose" if frames:
            del frames[chance.randrange(len(frames))]
        case "reset":
            wire.reset()
        case "again" if frames:
            frames.insert(chance.randrange(len(frames)), chance.choice(frames))
        case "swap" if len(frames) > 1:
            frames.rotate(chance.randrange(len(frames)))
        case "commit":
            side.link.committed(chance.randint(0, side.commits), wire.now)
            wire.speak(side)
        case "wait":
            wire.now += chance.choice([0.1, 0.5, 1.0])
            wire.speak(side)
        case "repeat":
            wire.repeat(side)


# -- a link made anew


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("who", ["a", "b"])
@windows("wide", "one")
def test_a_peer_that_makes_its_link_anew_at_any_step_is_heard(
    limits: Limits, who: str, is_reset: bool
) -> None:
    for at in range(converse(Wire(limits), {}) + 1):
        wire = Wire(limits)
        say_until(wire, at)
        reborn, other = wire.sides if who == "a" else wire.sides[::-1]
        if is_reset:
            wire.reset()
        reborn.link = reborn.make_link()
        reborn.said, reborn.heard, other.heard = [], [], []
        for number in range(3):
            wire.say(reborn, b"anew %d" % number)
        wire.run()
        assert other.heard[-3:] == reborn.said  # words of the former life came before, if at all
        assert not [word for word in other.heard[:-3] if word.startswith(b"anew")]
        wire.say(other, b"welcome back")
        wire.run()
        assert reborn.heard[-1] == b"welcome back"
        assert len(dict.fromkeys(reborn.heard)) == len(reborn.heard)
        assert [side.link.deadline() for side in wire.sides] == [None, None]


def say_until(wire: Wire, step: int) -> None:
    """The script up to that step."""
    script = SCRIPT.split()
    for word in (*script, *("." * step))[:step]:
        if word == ".":
            wire.step()
        else:
            side = wire.a if word == "a" else wire.b
            wire.say(side, b"%s says %d" % (word.encode(), len(side.said)))


def test_frames_of_a_life_that_is_over_are_not_heard() -> None:
    wire = established()
    wire.say(wire.a, b"of the former life")
    late = wire.toward[B].popleft()
    wire.a.link = wire.a.make_link()
    wire.a.said[1:] = []
    wire.say(wire.a, b"of the new life")
    wire.run()
    wire.hear(wire.b, late)
    wire.run()
    assert wire.b.heard == [b"first", b"of the new life"]


def test_an_opening_that_was_lost_is_said_again_when_the_peer_knows_no_such_link() -> None:
    wire = Wire()
    wire.say(wire.a, b"one")
    wire.toward[B].clear()
    unknown = HEADER.pack(UNKNOWN, link_number(A, B, wire.a.link.life), 0, 0)
    wire.hear(wire.a, unknown)
    wire.hear(wire.a, unknown)  # one of many that strayed: not opened for each
    assert wire.log == ["c HELLO 0 0", "c DATA 1 0", "c HELLO 1 0", "c DATA 1 0"]
    wire.run()
    wire.check()


def test_a_link_that_was_up_and_is_unknown_to_the_peer_is_over() -> None:
    wire = established()
    with pytest.raises(LinkForgotten):
        wire.hear(wire.a, HEADER.pack(UNKNOWN, link_number(A, B, wire.a.link.life), 0, 0))
    wire.hear(wire.a, HEADER.pack(UNKNOWN, link_number(A, B, 77), 0, 0))  # of another life


# -- what is refused


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(PROTOCOL + 1, "cluster", B, 1), "it speaks protocol 2 and c:.* speaks 1"),
        (Hello(PROTOCOL, "other", B, 1), "it belongs to cluster 'other' and not to 'cluster'"),
        (Hello(PROTOCOL, "cluster", A, 1), "it calls itself 'c:0a"),
        (Hello(PROTOCOL, "cluster", B), "says nothing of its life"),
    ],
)
@pytest.mark.parametrize("wants_answer", [True, False])
def test_a_peer_that_does_not_fit_is_refused_and_told_once(
    hello: Hello, reason: str, wants_answer: bool
) -> None:
    link = Wire().a.link
    link.queue(b"never said")
    link.speak(0.0)
    hello = Hello(hello.protocol, hello.cluster, hello.address, hello.life, 0, 0, wants_answer)
    frame = HEADER.pack(HELLO, link_number(B, A, 1), 0, 0) + encode_hello(hello)
    with pytest.raises(HelloRefused, match=reason):
        link.hear(frame, 0.0)
    link.check()
    assert [unpack_header(each)[0] for each in link.speak(0.0)] == [HELLO] * wants_answer
    proper = Hello(PROTOCOL, "cluster", B, 2, 0, 0, True)
    frame = HEADER.pack(HELLO, link_number(B, A, 2), 0, 0) + encode_hello(proper)
    assert link.hear(frame, 1.0) is None
    link.queue(b"never said")
    link.repeat()
    assert link.speak(100.0) == []
    assert link.deadline() is None
    assert link.refusal


@pytest.mark.parametrize(
    ("kind", "seq", "ack", "reason"),
    [
        (DATA, 1, 9, "frame 9 is acknowledged"),
        (9, 0, 0, "unknown kind 9"),
        (UNKNOWN, 0, 0, "unknown kind 5"),
    ],
)
def test_what_no_proper_peer_says_is_refused(kind: int, seq: int, ack: int, reason: str) -> None:
    wire = established()
    number = link_number(B, A, wire.b.link.life)
    with pytest.raises(FrameError, match=reason):
        wire.hear(wire.a, HEADER.pack(kind, number, seq, ack))


def test_a_hello_that_heard_more_than_was_said_is_refused() -> None:
    wire = established()
    life = wire.b.link.life
    hello = Hello(PROTOCOL, "cluster", B, life, wire.a.link.life, 99)
    with pytest.raises(FrameError, match="frame 99 was heard"):
        wire.hear(wire.a, HEADER.pack(HELLO, link_number(B, A, life), 0, 0) + encode_hello(hello))


def test_a_frame_above_the_limit_is_refused() -> None:
    wire = Wire(LIMITS, replace(LIMITS, frame_bytes_max=100))
    wire.say(wire.a, b"x" * 75)
    wire.say(wire.a, b"x" * 76)
    for _ in range(2):
        wire.deliver(wire.b)
    with pytest.raises(FrameError, match="a frame of 101 bytes"):
        wire.deliver(wire.b)


def test_frames_before_any_hello_are_not_heard_and_asked_for() -> None:
    wire = Wire()
    wire.say(wire.a, b"one")
    wire.toward[B].popleft()
    wire.deliver(wire.b)
    assert wire.b.heard == []
    question = decode_hello(wire.toward[A][0])
    assert (question.wants_answer, question.peer_life) == (True, 0)
    wire.run()
    wire.check()


def test_numbers_that_do_not_fit_together_are_noticed() -> None:
    link = established().a.link
    link.check()
    link._settled = 5
    with pytest.raises(InvariantError, match=r"link c:.* to w:.*'settled': 5"):
        link.check()
