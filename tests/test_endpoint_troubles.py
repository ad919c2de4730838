"""How links end and whom they refuse; then two endpoints in all kinds of trouble."""

import random
from collections import deque
from dataclasses import replace

import pytest

from fabric.config import Limits
from fabric.core.effects import (
    Commit,
    Effect,
    Hangup,
    Send,
    Transmit,
)
from fabric.core.events import SELF, CallBlocked, PeerLost
from fabric.core.machine import InvariantError, WordError
from fabric.ids import Address
from fabric.protocol.frames import (
    ACK,
    DATA,
    HEADER,
    HELLO,
    UNKNOWN,
    link_number,
)
from fabric.protocol.messages import (
    AnyMessage,
    ReturnLease,
    WorkerReady,
)
from tests.talkers import (
    COMMIT,
    LIMITS,
    STOP,
    UNLINK,
    A,
    B,
    C,
    Talker,
    carry,
    pair,
    read,
)

# -- the end of a link


def test_a_hangup_leaves_after_the_words_before_it_and_forgets_the_link() -> None:
    a, b = pair(replace(LIMITS, link_frames_max=1))
    a.say(Send(B, ReturnLease(1)), now=2.0)
    a.say(Send(B, ReturnLease(2)), now=2.0)
    carry(b.say(Send(A, WorkerReady(7)), now=2.0), a, B, now=2.0)
    assert a.says(STOP, Send(B, ReturnLease(3)), Hangup(B), UNLINK, now=2.0) == [
        STOP,
        (B, "DATA", 3, 2, ReturnLease(2)),
        (B, "DATA", 4, 2, ReturnLease(3)),
        Hangup(B),
        UNLINK,
    ]
    assert a.deadline() is None
    assert a.snapshot()["links"] == {}


def test_a_hangup_acknowledges_what_was_heard() -> None:
    a, b = pair()
    carry(b.say(Send(A, WorkerReady(7)), now=2.0), a, B, now=2.0)
    effects = a.say(Hangup(B), now=2.0)
    assert read(effects) == [(B, "ACK", 1, 2), Hangup(B)]
    carry(effects, b, A, now=2.0)
    b.turn(2.0)
    assert b.deadline() is None


def test_a_hangup_without_a_link_only_passes_through() -> None:
    assert Talker(A).say(Hangup(B)) == [Hangup(B)]


def test_a_peer_that_hung_up_is_heard_again_when_it_comes_back() -> None:
    a, b = pair()
    a.say(Hangup(B))
    b.say(Send(A, ReturnLease(1)), now=2.0)  # to the former link
    carry(a.say(Send(B, ReturnLease(2)), now=2.0), b, A, now=2.0)
    assert b.script.heard == [(A, ReturnLease(2))]
    carry(b.say(Send(A, ReturnLease(3)), now=2.0), a, B, now=2.0)
    assert a.script.heard == [(B, ReturnLease(3))]


def test_a_forgotten_peer_is_not_spoken_to() -> None:
    a, _ = pair()
    a.script.answers = {CallBlocked(): [Send(B, ReturnLease(1)), STOP, Send(C, ReturnLease(2))]}
    a.say(COMMIT, Send(B, ReturnLease(3)))
    a.tell(CallBlocked(), 0.0)
    a.forget(B)
    assert read(a.turn(0.0)) == [
        STOP,
        (C, "HELLO", 0, 0),
        (C, "DATA", 1, 0, ReturnLease(2)),
    ]
    assert a.says(Send(B, ReturnLease(4)), COMMIT) == [
        (B, "HELLO", 0, 0),
        (B, "DATA", 1, 0, ReturnLease(4)),
        COMMIT,
    ]
    assert a.committed(2, 0.0) == []
    a.forget(B)
    assert a.retransmit(B, 0.0) == []


def test_after_a_reconnect_all_that_is_unacknowledged_is_said_again() -> None:
    a, b = pair()
    a.say(Send(B, ReturnLease(1)), now=2.0)
    lost = b.say(Send(A, ReturnLease(2)), now=2.0)
    effects = a.retransmit(B, 2.1)
    assert read(effects) == [(B, "HELLO", 2, 1), (B, "DATA", 2, 1, ReturnLease(1))]
    assert lost
    carry(effects, b, A, now=2.1)
    effects = b.turn(2.1)
    assert read(effects) == [(A, "DATA", 2, 2, ReturnLease(2))]
    carry(effects, a, B, now=2.1)
    assert a.script.heard == [(B, ReturnLease(2))]
    assert b.script.heard == [(A, ReturnLease(1))]


# -- what is refused


def test_another_cluster_is_refused_on_both_sides_and_each_is_told_why() -> None:
    a, b = Talker(A, cluster="one"), Talker(B, cluster="two")
    carry(a.say(Send(B, ReturnLease(1))), b, A)
    assert b.script.heard == [
        (SELF, PeerLost(A, "it belongs to cluster 'one' and not to 'two'")),
    ]
    effects = b.say(Send(A, ReturnLease(2)))
    assert read(effects) == [(A, "HELLO", 0, 0)]
    carry(effects, a, B)
    assert a.script.heard == [
        (SELF, PeerLost(B, "it belongs to cluster 'two' and not to 'one'")),
    ]
    assert a.say(Send(B, ReturnLease(3)), now=5.0) == []
    assert b.turn(9.0) == []
    assert [a.deadline(), b.deadline()] == [None, None]
    a.check()


def test_garbage_from_nobody_we_know_is_counted_and_nothing_else() -> None:
    a = Talker(A)
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n and so on", HEADER.pack(HELLO, 1, 0, 0) + b"x"):
        a.hear(B, garbage, 0.0)
    assert a.turn(0.0) == []
    assert a.script.heard == []
    assert (a.snapshot()["refused"], a.snapshot()["links"]) == (3, {})


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"GET", "a frame of 3 bytes is shorter than its header"),
        (HEADER.pack(DATA, link_number(B, A, 1), 2, 0) + b"x", "messages that cannot be read"),
        (HEADER.pack(DATA, link_number(B, A, 1), 2, 50), "frame 50 is acknowledged"),
        (HEADER.pack(HELLO, 1, 0, 0) + b"x", "a hello that cannot be read"),
    ],
)
def test_a_peer_that_sends_garbage_is_lost_once(frame: bytes, reason: str) -> None:
    a, b = pair()
    a.hear(B, frame, 2.0)
    a.hear(B, frame, 2.0)
    carry(b.say(Send(A, ReturnLease(1)), now=2.0), a, B)
    assert len(a.script.heard) == 1
    source, lost = a.script.heard[0]
    assert isinstance(lost, PeerLost)
    assert (source, lost.peer, lost.reason.startswith(reason)) == (SELF, B, True)
    assert a.say(Send(B, ReturnLease(2)), now=9.0) == []


def test_a_peer_whose_word_cannot_be_is_lost_and_the_machine_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = pair()
    listen = a.script.handle

    def handle(source: Address, message: object, now: float) -> list[Effect]:
        if message == ReturnLease(7):
            raise WordError("there is no such lease")
        return listen(source, message, now)

    monkeypatch.setattr(a.script, "handle", handle)
    carry(b.say(Send(A, ReturnLease(1)), Send(A, ReturnLease(7)), Send(A, ReturnLease(2))), a, B)
    lost = PeerLost(B, "there is no such lease")
    assert a.script.heard == [(B, ReturnLease(1)), (SELF, lost)]
    assert a.say(Send(B, ReturnLease(3)), now=9.0) == []


def test_a_refused_peer_may_come_again_after_a_hangup() -> None:
    a, _ = pair()
    lost = PeerLost(B, "a frame of 3 bytes is shorter than its header")
    a.script.answers = {lost: [Hangup(B)]}
    a.hear(B, b"GET", 2.0)
    assert a.turn(2.0) == [Hangup(B)]
    carry(Talker(B).say(Send(A, ReturnLease(1))), a, B)
    assert a.script.heard == [(SELF, lost), (B, ReturnLease(1))]


def test_a_frame_without_a_link_is_answered_and_the_opening_repeated() -> None:
    a, b = Talker(A), Talker(B)
    opening, words = a.say(Send(B, ReturnLease(1)))
    assert read([opening]) == [(B, "HELLO", 0, 0)]
    carry([words], b, A)
    effects = b.turn(0.0)
    assert read(effects) == [(A, "UNKNOWN", 0, 0)]
    carry(effects, a, B)
    carry(a.turn(0.0), b, A)
    assert b.script.heard == [(A, ReturnLease(1))]


def test_a_peer_that_ended_the_link_without_our_knowing_is_lost() -> None:
    a, b = pair()
    b.forget(A)
    carry(a.say(Send(B, ReturnLease(1)), now=2.0), b, A, now=2.0)
    a.script.answers = {CallBlocked(): [Send(B, ReturnLease(2)), STOP]}
    a.tell(CallBlocked(), 2.0)
    carry(b.turn(2.0), a, B, now=2.0)
    assert a.script.heard[1:] == [(SELF, PeerLost(B, "it has ended the link"))]
    assert a.turn(2.0) == [STOP]
    assert a.snapshot()["links"] == {}


def test_acknowledgements_without_a_link_are_not_answered() -> None:
    b = Talker(B)
    b.hear(A, HEADER.pack(ACK, 7, 0, 0), 0.0)
    b.hear(A, HEADER.pack(UNKNOWN, 7, 0, 0), 0.0)
    assert b.turn(0.0) == []


def test_a_check_looks_at_machine_and_links() -> None:
    a, _ = pair()
    a.check()
    a.script.is_sound = False
    with pytest.raises(InvariantError, match="unsound"):
        a.check()


def test_a_snapshot_has_the_figures_of_each_link() -> None:
    a, _ = pair()
    figures = a.snapshot()
    assert {name: figures[name] for name in ("address", "commits", "held", "refused")} == {
        "address": A,
        "commits": 0,
        "held": 0,
        "refused": 0,
    }
    links = figures["links"]
    assert isinstance(links, dict)
    assert [(peer, each["sent"], each["acked"]) for peer, each in links.items()] == [(B, 1, 1)]


# -- two endpoints, commits in between, and resets at every step


class World:
    """Two endpoints, the frames between them, the commits that are not durable yet, and time."""

    def __init__(self, limits: Limits) -> None:
        self.ends = {A: Talker(A, limits), B: Talker(B, limits)}
        self.wire: dict[Address, deque[tuple[Address, bytes]]] = {A: deque(), B: deque()}
        self.appeared = {A: 0, B: 0}
        self.durable = {A: 0, B: 0}
        self.said: dict[Address, list[AnyMessage]] = {A: [], B: []}
        self.now = 0.0

    def perform(self, here: Address, effects: list[Effect]) -> None:
        for each in effects:
            if isinstance(each, Transmit):
                self.wire[each.peer].append((here, each.frame))
            elif isinstance(each, Commit):
                self.appeared[here] += 1
        self.ends[here].check()

    def say(self, here: Address, *, is_committed: bool) -> None:
        words: list[AnyMessage] = [ReturnLease(len(self.said[here]) + each) for each in range(2)]
        self.said[here] += words
        there = B if here == A else A
        first, second = (Send(there, each) for each in words)
        effects = [first, COMMIT, second] if is_committed else [first, second]
        self.perform(here, self.ends[here].say(*effects, now=self.now))

    def deliver(self, here: Address) -> None:
        source, frame = self.wire[here].popleft()
        self.ends[here].hear(source, frame, self.now)
        self.perform(here, self.ends[here].turn(self.now))

    def commit(self, here: Address) -> None:
        self.durable[here] += 1
        self.perform(here, self.ends[here].committed(self.durable[here], self.now))

    def reset(self) -> None:
        for frames in self.wire.values():
            frames.clear()

    def run(self) -> None:
        """Until all is quiet: frames arrive, then commits become durable, then time passes."""
        for _ in range(2000):
            waiting = [here for here in self.ends if self.wire[here]]
            uncommitted = [here for here in self.ends if self.durable[here] < self.appeared[here]]
            if waiting:
                self.deliver(waiting[0])
            elif uncommitted:
                self.commit(uncommitted[0])
            else:
                times = [each.deadline() for each in self.ends.values()]
                due = [at for at in times if at is not None]
                if not due:
                    return
                self.now = max(self.now, min(due))
                for here, end in self.ends.items():
                    self.perform(here, end.turn(self.now))
        raise AssertionError("no end to it")

    def check(self) -> None:
        for here, there in ((A, B), (B, A)):
            assert [message for _, message in self.ends[here].script.heard] == self.said[there]


TINY = replace(LIMITS, link_frames_max=1, link_bytes_max=1, batch_bytes_max=1)


@pytest.mark.parametrize("limits", [LIMITS, TINY], ids=["wide", "tiny"])
@pytest.mark.parametrize("seed", range(60))
def test_every_word_arrives_once_and_in_order_whatever_breaks(seed: int, limits: Limits) -> None:
    chance = random.Random(seed)
    world = World(limits)
    for _ in range(60):
        here = chance.choice((A, B))
        match chance.randrange(8):
            case 0:
                world.say(here, is_committed=chance.random() < 0.5)
            case 1 if world.durable[here] < world.appeared[here]:
                world.commit(here)
            case 2:
                world.now += chance.choice([0.1, 0.5, 1.0])
                world.perform(here, world.ends[here].turn(world.now))
            case 3 if chance.random() < 0.3:
                world.reset()
            case 4 if chance.random() < 0.3:
                there = B if here == A else A
                world.perform(here, world.ends[here].retransmit(there, world.now))
            case _ if world.wire[here]:
                world.deliver(here)
    world.run()
    world.check()
