"""A link alone: who says what when, what waits, and what is refused."""

from dataclasses import replace

import pytest

from fabric.config import Limits
from fabric.core.link import HelloRefused
from fabric.core.machine import InvariantError
from fabric.protocol.frames import (
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
from tests.wire import LIMITS, ONE, A, B, Wire, established

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


def test_a_frame_that_comes_again_is_not_heard_again_and_acknowledged_at_once() -> None:
    wire = established()
    wire.say(wire.a, b"two")
    wire.duplicate()
    wire.deliver(wire.b)
    wire.deliver(wire.b)
    assert wire.log == ["c DATA 2 0", "w ACK 0 2"]
    assert wire.b.link.snapshot()["duplicates"] == 1
    wire.run()
    wire.check()


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


# -- what is refused


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(PROTOCOL + 1, "cluster", B, 1), f"{PROTOCOL + 1} and c:.* speaks {PROTOCOL}$"),
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
