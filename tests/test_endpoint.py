"""A turn of a machine and its links: whole lists of effects, and what waits for a commit."""

from dataclasses import replace

import pytest

from fabric.core.effects import (
    Exit,
    Hangup,
    Publish,
    Send,
    Transmit,
)
from fabric.core.events import SELF, CallBlocked
from fabric.protocol.cluster import ViewChanged
from fabric.protocol.frames import (
    DATA,
    HEADER,
    FrameError,
    Hello,
    decode_hello,
    encode_messages,
    link_number,
)
from fabric.protocol.messages import PROTOCOL, EndWorker, PutFunction, ReturnLease, WorkerReady
from tests.talkers import (
    COMMIT,
    LIMITS,
    NEWS,
    STOP,
    UNLINK,
    A,
    B,
    C,
    Talker,
    carry,
    pair,
    read,
    read_frame,
)

# -- a turn


def test_what_a_turn_says_to_a_peer_is_one_frame_where_its_last_message_stood() -> None:
    a = Talker(A)
    assert a.says(
        Send(B, ReturnLease(1)),
        STOP,
        Send(C, ReturnLease(2)),
        Send(B, ReturnLease(3)),
        UNLINK,
    ) == [
        STOP,
        (C, "HELLO", 0, 0),
        (C, "DATA", 1, 0, ReturnLease(2)),
        (B, "HELLO", 0, 0),
        (B, "DATA", 1, 0, ReturnLease(1), ReturnLease(3)),
        UNLINK,
    ]
    assert a.says(UNLINK, Send(B, ReturnLease(4))) == [UNLINK, (B, "DATA", 2, 0, ReturnLease(4))]


def test_a_link_is_opened_and_answered_with_one_hello_each() -> None:
    a, b = Talker(A), Talker(B)
    opening = a.say(Send(B, ReturnLease(1)))
    carry(opening, b, A)
    answer = b.say(Send(A, ReturnLease(2)))
    assert read(answer) == [(A, "HELLO", 0, 1), (A, "DATA", 1, 1, ReturnLease(2))]
    carry(answer, a, B)
    assert a.turn(0.0) == []
    hellos = [each.frame for each in (opening[0], answer[0]) if isinstance(each, Transmit)]
    assert [decode_hello(frame) for frame in hellos] == [
        Hello(PROTOCOL, "cluster", A, 1, 0, 0, wants_answer=True),
        Hello(PROTOCOL, "cluster", B, 1, 1, 1),
    ]


def test_a_frame_is_a_header_and_the_messages() -> None:
    a, _ = pair()
    assert a.say(Send(B, ReturnLease(1)), now=2.0) == [
        Transmit(
            B, HEADER.pack(DATA, link_number(A, B, 1), 2, 1) + encode_messages([ReturnLease(1)])
        )
    ]


def test_what_was_heard_and_told_comes_before_what_the_tick_adds() -> None:
    a, b = pair()
    a.script.answers = {
        WorkerReady(7): [Send(B, ReturnLease(1)), STOP],
        CallBlocked(): [Send(B, ReturnLease(2))],
        ViewChanged(1, 1): [Send(B, ReturnLease(3))],
    }
    carry(b.say(Send(A, WorkerReady(7)), now=2.0), a, B, now=2.0)
    a.tell(CallBlocked(), 2.0)
    a.tell_published(ViewChanged(1, 1), C, 2.0)
    assert a.says(Send(B, ReturnLease(4)), Exit("done"), now=2.0) == [
        STOP,
        (B, "DATA", 2, 2, *(ReturnLease(number) for number in (1, 2, 3, 4))),
        Exit("done"),
    ]
    assert a.script.heard == [(B, WorkerReady(7)), (SELF, CallBlocked()), (C, ViewChanged(1, 1))]


def test_a_turn_without_anything_says_nothing() -> None:
    a, _ = pair()
    assert a.turn(5.0) == []


def test_a_large_turn_is_cut_into_frames() -> None:
    a, b = pair(replace(LIMITS, batch_bytes_max=40))
    many = [ReturnLease(number) for number in range(10)]
    effects = a.say(*(Send(B, each) for each in many), now=1.0)
    assert [read_frame(each)[1:3] for each in effects if isinstance(each, Transmit)] == [
        ("DATA", 2),
        ("DATA", 3),
        ("DATA", 4),
        ("DATA", 5),
        ("DATA", 6),
    ]
    carry(effects, b, A)
    assert b.script.heard == [(A, each) for each in many]


def test_a_message_that_no_frame_can_hold_is_an_error_of_the_speaker() -> None:
    a, _ = pair(replace(LIMITS, frame_bytes_max=200))
    with pytest.raises(FrameError, match="a PutFunction of 2"):
        a.say(Send(B, PutFunction(b"f" * 16, "f", b"x" * 200)))  # type: ignore[arg-type]


def test_an_acknowledgement_follows_when_nothing_else_was_said() -> None:
    a, b = pair()
    carry(a.say(Send(B, ReturnLease(1)), now=2.0), b, A, now=2.0)
    assert b.turn(2.0) == []
    assert [a.deadline(), b.deadline()] == [3.0, 2.5]
    effects = b.turn(2.5)
    assert read(effects) == [(A, "ACK", 1, 2)]
    carry(effects, a, B, now=2.5)
    assert a.turn(2.5) == []
    assert [a.deadline(), b.deadline()] == [None, None]


def test_the_deadline_is_the_earliest_of_machine_and_links() -> None:
    a, _ = pair()
    a.script.due = 9.0
    assert a.deadline() == 9.0
    a.say(Send(B, ReturnLease(1)), now=2.0)
    assert a.deadline() == 3.0
    a.say(Send(C, ReturnLease(1)), now=2.5)
    assert read(a.turn(3.0)) == [(B, "BEAT", 2, 1)]
    assert a.deadline() == 3.5
    a.script.due = 3.1
    assert a.deadline() == 3.1


# -- durable before spoken


def test_what_follows_a_commit_waits_for_it_and_what_came_before_does_not() -> None:
    a, _ = pair()
    assert a.says(
        Send(B, ReturnLease(1)), COMMIT, STOP, Send(B, ReturnLease(2)), NEWS, Send(C, EndWorker())
    ) == [(B, "DATA", 2, 1, ReturnLease(1)), COMMIT, STOP]
    assert read(a.committed(1, 0.1)) == [
        (B, "DATA", 3, 1, ReturnLease(2)),
        NEWS,
        (C, "HELLO", 0, 0),
        (C, "DATA", 1, 0, EndWorker()),
    ]
    assert a.committed(1, 0.2) == []


def test_later_words_to_the_same_peer_queue_behind_and_those_to_others_do_not() -> None:
    a, _ = pair()
    a.say(COMMIT, Send(B, ReturnLease(1)), NEWS)
    later = Publish(ViewChanged(1, 2))
    assert a.says(Send(B, ReturnLease(2)), later, Send(C, EndWorker()), STOP) == [
        (C, "HELLO", 0, 0),
        (C, "DATA", 1, 0, EndWorker()),
        STOP,
    ]
    assert read(a.committed(1, 0.1)) == [
        NEWS,
        (B, "DATA", 2, 1, ReturnLease(1), ReturnLease(2)),
        later,
    ]
    assert a.says(Send(B, ReturnLease(3))) == [(B, "DATA", 3, 1, ReturnLease(3))]


def test_each_commit_releases_what_waits_for_it_and_for_those_before() -> None:
    a, _ = pair()
    a.say(COMMIT, Send(B, ReturnLease(1)), COMMIT, Send(B, ReturnLease(2)))
    a.say(COMMIT, Send(B, ReturnLease(3)))
    a.say(COMMIT, Send(B, ReturnLease(4)))
    assert read(a.committed(1, 0.1)) == [(B, "DATA", 2, 1, ReturnLease(1))]
    assert read(a.committed(3, 0.1)) == [(B, "DATA", 3, 1, ReturnLease(2), ReturnLease(3))]
    assert read(a.committed(4, 0.1)) == [(B, "DATA", 4, 1, ReturnLease(4))]


def test_frames_are_acknowledged_when_the_commit_of_their_turn_is_durable() -> None:
    a, b = pair()
    a.script.answers = {WorkerReady(7): [COMMIT]}
    carry(b.say(Send(A, WorkerReady(7)), now=2.0), a, B, now=2.0)
    assert a.turn(2.0) == [COMMIT]
    assert a.says(Send(B, ReturnLease(1)), now=2.1) == [(B, "DATA", 2, 1, ReturnLease(1))]
    carry(b.say(Send(A, WorkerReady(8)), now=2.2), a, B, now=2.2)
    assert a.says(Send(B, ReturnLease(2)), now=2.2) == [(B, "DATA", 3, 1, ReturnLease(2))]
    assert a.committed(1, 2.3) == []
    assert a.says(Send(B, ReturnLease(3)), now=2.3) == [(B, "DATA", 4, 3, ReturnLease(3))]


def test_each_commit_settles_the_frames_of_its_turn() -> None:
    a, b = pair()
    a.script.answers = {WorkerReady(7): [COMMIT], WorkerReady(8): [COMMIT]}
    for pid in (7, 8):
        carry(b.say(Send(A, WorkerReady(pid)), now=2.0), a, B, now=2.0)
        assert a.turn(2.0) == [COMMIT]
    acks = []
    for number in (1, 2):
        a.committed(number, 2.0)
        acks += a.says(Send(B, ReturnLease(number)), now=2.0)
    assert acks == [(B, "DATA", 2, 2, ReturnLease(1)), (B, "DATA", 3, 3, ReturnLease(2))]


def test_a_commit_that_ends_between_hearing_and_turn_settles_only_its_own_frames() -> None:
    a, b = pair()
    a.script.answers = {WorkerReady(7): [COMMIT], WorkerReady(8): [COMMIT]}
    carry(b.say(Send(A, WorkerReady(7)), now=2.0), a, B, now=2.0)
    assert a.turn(2.0) == [COMMIT]
    carry(b.say(Send(A, WorkerReady(8)), now=2.1), a, B, now=2.1)
    assert a.committed(1, 2.1) == []
    assert a.turn(2.1) == [COMMIT]
    assert a.says(Send(B, ReturnLease(1)), now=2.2) == [(B, "DATA", 2, 2, ReturnLease(1))]
    assert a.committed(2, 2.3) == []
    assert a.says(Send(B, ReturnLease(2)), now=2.3) == [(B, "DATA", 3, 3, ReturnLease(2))]


def test_an_acknowledgement_that_waited_for_a_commit_follows_by_itself() -> None:
    a, b = pair()
    a.script.answers = {WorkerReady(7): [COMMIT]}
    carry(b.say(Send(A, WorkerReady(7)), now=2.0), a, B, now=2.0)
    assert a.turn(2.0) == [COMMIT]
    assert a.deadline() is None
    assert a.committed(1, 9.0) == []
    assert a.deadline() == 9.5
    assert read(a.turn(9.5)) == [(B, "ACK", 1, 2)]


def test_beats_are_not_held() -> None:
    a, b = pair()
    a.say(Send(B, ReturnLease(1)), COMMIT, Send(B, ReturnLease(2)), now=2.0)
    assert read(a.turn(3.0)) == [(B, "BEAT", 2, 1)]
    carry(b.say(Send(A, ReturnLease(3)), now=3.0), a, B, now=3.0)
    assert a.turn(3.0) == []
    assert read(a.turn(3.5)) == [(B, "ACK", 2, 2)]


def test_a_hangup_waits_behind_what_is_held() -> None:
    a, _ = pair()
    assert a.says(COMMIT, Send(B, ReturnLease(1))) == [COMMIT]
    assert a.says(Hangup(B), Send(B, ReturnLease(2))) == []
    assert read(a.committed(1, 0.0)) == [
        (B, "DATA", 2, 1, ReturnLease(1)),
        Hangup(B),
        (B, "HELLO", 0, 0),
        (B, "DATA", 1, 0, ReturnLease(2)),
    ]
