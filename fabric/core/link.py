"""A link: what two machines say to each other arrives once and in order, or not at all.

The carrier below (libzmq) keeps order on one connection but loses what is in flight when it breaks,
without a word to either side. So frames are numbered; a hearer takes only the next number,
acknowledges cumulatively what is settled, and at a gap asks with a `HELLO` to have the rest
repeated (go-back-N). Loss is always found by the hearer: by the next frame, or by the `BEAT` that a
speaker repeats while something is unacknowledged. A quiet link has no deadline.

Each side numbers its lives of a link; a link made anew (after `Hangup`) has a greater life, and
frames of an older one are known by the link number in their header. This module encodes no messages
and does not know where frames go; `fabric.core.endpoint` binds links to a machine.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice

from fabric.config import Limits
from fabric.core.machine import InvariantError
from fabric.ids import Address
from fabric.protocol.frames import (
    ACK,
    BEAT,
    DATA,
    HEADER,
    HEADER_BYTES,
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

_pack = HEADER.pack
_NOBODY = -1
"""No link has this number: nothing but a `HELLO` is accepted before the peer's life is known."""
_NEVER = float("-inf")


class HelloRefused(FrameError):
    """The peer speaks another protocol or belongs to another cluster, or is somebody else."""


class LinkForgotten(FrameError):
    """The peer has ended a link that was up: what it had not acknowledged is lost."""


class Lives:
    """Growing numbers for the links of one endpoint, none of them given twice."""

    def __init__(self) -> None:
        self.newest = 0

    def __iter__(self) -> "Lives":
        return self

    def __next__(self) -> int:
        self.newest += 1
        return self.newest


class Link:
    """One side of a link. `hear` frames, `settle` each turn, `queue` bodies, then `speak`."""

    __slots__ = (
        "_ack_bytes",
        "_ack_due_at",
        "_ack_frames",
        "_ack_told",
        "_acked",
        "_asked_at",
        "_asked_for",
        "_backlog",
        "_beat_s",
        "_bytes_heard",
        "_bytes_sent",
        "_cluster",
        "_duplicates",
        "_flight",
        "_flight_bytes",
        "_flight_bytes_max",
        "_flight_frames_max",
        "_frame_bytes_max",
        "_gaps",
        "_gates",
        "_is_closing",
        "_link",
        "_lives",
        "_must_greet",
        "_peer_life",
        "_peer_link",
        "_received",
        "_reopened_at",
        "_resend_from",
        "_resent",
        "_restarts",
        "_sent",
        "_settled",
        "_spoke_at",
        "_unacked_bytes",
        "_wants_answer",
        "_wants_resend",
        "address",
        "life",
        "peer",
        "refusal",
    )

    def __init__(
        self, address: Address, peer: Address, lives: Iterator[int], *, cluster: str, limits: Limits
    ) -> None:
        """``lives`` gives growing numbers, also to every later link of the same two addresses."""
        self.address = address
        self.peer = peer
        self.refusal = ""
        self._lives = lives
        self._cluster = cluster
        self._beat_s = limits.beat_s
        self._frame_bytes_max = limits.frame_bytes_max
        self._flight_bytes_max = limits.link_bytes_max
        self._flight_frames_max = limits.link_frames_max
        # a quarter, so that a peer that only hears never lets our window run full
        self._ack_bytes = max(1, limits.link_bytes_max // 4)
        self._ack_frames = max(1, limits.link_frames_max // 4)
        self._resent = self._duplicates = self._gaps = self._restarts = 0
        self._bytes_sent = self._bytes_heard = 0
        self._spoke_at = _NEVER
        self._is_closing = False
        self._begin_speaking()
        self._begin_hearing(0)

    def _begin_speaking(self) -> None:
        """A new life of ours: numbered from 1, opened with a `HELLO` that wants an answer."""
        self.life = next(self._lives)
        self._link = link_number(self.address, self.peer, self.life)
        self._sent = self._acked = 0
        self._flight: deque[bytes] = deque()  # bodies of frames _acked+1 … _sent
        self._flight_bytes = 0
        self._backlog: deque[bytes] = deque()
        self._resend_from = 0  # 0: nothing to repeat
        self._reopened_at = _NEVER
        self._must_greet = self._wants_answer = True
        self._wants_resend = False

    def _begin_hearing(self, peer_life: int) -> None:
        """Listen to that life of the peer; 0 to none yet."""
        self._peer_life = peer_life
        self._peer_link = link_number(self.peer, self.address, peer_life) if peer_life else _NOBODY
        self._received = self._settled = self._ack_told = 0
        self._unacked_bytes = 0
        self._gates: deque[tuple[int, int]] = deque()  # (commit, last frame it settles)
        self._ack_due_at: float | None = None
        self._asked_at = _NEVER
        self._asked_for = 0

    # -- hearing

    def hear(self, frame: bytes, now: float) -> memoryview | None:
        """The body, if this is the next frame of messages.

        `HelloRefused`, `LinkForgotten` or another `FrameError` mean that the link is over: the
        caller ends it with `refuse`, or forgets it.
        """
        kind, link, seq, ack = unpack_header(frame)
        if link != self._peer_link or kind == HELLO:
            self._on_unnumbered(kind, link, seq, ack, frame, now)
            return None
        if ack > self._acked:
            self._on_ack(ack)
        if kind == DATA:
            return self._on_numbered(seq, frame, now)
        if kind not in (BEAT, ACK):
            raise FrameError(f"a frame of unknown kind {kind}")
        if seq > self._received:
            self._ask(now)
        elif kind == BEAT:
            self._ack_due_at = now
        return None

    def _on_numbered(self, seq: int, frame: bytes, now: float) -> memoryview | None:
        if seq == self._received + 1:
            nbytes = len(frame)
            if nbytes > self._frame_bytes_max:
                raise FrameError(f"a frame of {nbytes} bytes (the limit: {self._frame_bytes_max})")
            self._received = seq
            self._unacked_bytes += nbytes
            self._bytes_heard += nbytes
            return memoryview(frame)[HEADER_BYTES:]
        if seq <= self._received:  # repeated: its sender has not heard of our acknowledgement
            self._duplicates += 1
            self._ack_due_at = now
        else:
            self._ask(now)
        return None

    def _on_ack(self, ack: int) -> None:
        if ack > self._sent:
            raise FrameError(f"frame {ack} is acknowledged; the last one sent was {self._sent}")
        flight = self._flight
        for _ in range(ack - self._acked):
            self._flight_bytes -= len(flight.popleft())
        self._acked = ack

    def _ask(self, now: float) -> None:
        """Something is missing: have it repeated. Once for each gap, and again if nothing came."""
        if self._asked_for == self._received + 1 and now < self._asked_at + self._beat_s / 2:
            return
        self._gaps += 1
        self._asked_for = self._received + 1
        self._asked_at = now
        self._must_greet = self._wants_resend = True

    def _on_unnumbered(
        self, kind: int, link: int, seq: int, ack: int, frame: bytes, now: float
    ) -> None:
        """What may come before the peer's life is known, or from another of its lives."""
        if self.refusal:
            return
        if kind == HELLO:
            self._on_hello(decode_hello(frame), ack)
        elif kind == UNKNOWN:
            self._on_unknown(link, seq, now)
        elif kind in (DATA, BEAT, ACK):
            self._on_stranger(now)
        else:
            raise FrameError(f"a frame of unknown kind {kind}")

    def _on_hello(self, hello: Hello, ack: int) -> None:
        self._check_hello(hello)
        if hello.life < self._peer_life:
            return  # said by a life that is over
        is_new = hello.life > self._peer_life
        if is_new and self._peer_life:
            self._on_reborn(hello)
        elif hello.peer_life not in (0, self.life):
            # It speaks to an earlier life of ours, with numbers that we do not know.
            self._must_greet = self._wants_answer = True
            return
        if is_new:
            self._begin_hearing(hello.life)
        if hello.peer_life == self.life:
            if hello.received > self._sent:
                raise FrameError(f"frame {hello.received} was heard and {self._sent} is the last")
            if ack > self._acked:
                self._on_ack(ack)
        self._wants_answer = False  # a hello that was still to be said asks for what is known now
        if hello.wants_resend:
            self._resend_after(hello.received if hello.peer_life else 0)
        if hello.wants_answer:
            self._must_greet = True

    def _check_hello(self, hello: Hello) -> None:
        reason = ""
        if hello.protocol != PROTOCOL:
            reason = f"it speaks protocol {hello.protocol} and {self.address} speaks {PROTOCOL}"
        elif hello.cluster != self._cluster:
            reason = f"it belongs to cluster {hello.cluster!r} and not to {self._cluster!r}"
        elif hello.address != self.peer:
            reason = f"it calls itself {hello.address!r}"
        elif hello.life < 1:
            reason = "its hello says nothing of its life"
        if reason:
            # Tell it who we are, so that it learns the reason too; an answer is not answered.
            self.refuse(reason)
            self._must_greet = hello.wants_answer
            raise HelloRefused(reason)

    def _on_reborn(self, hello: Hello) -> None:
        """The peer made the link anew. What its former life may have heard is not said again."""
        if hello.peer_life == self.life and not self._acked:
            return  # it answers this very life, of which its former one has heard nothing
        self._restarts += 1
        self._begin_speaking()

    def _on_unknown(self, link: int, newest: int, now: float) -> None:
        if link != self._link:
            return  # said to a life that is over
        if self._peer_life > newest:
            return  # said before the peer had this link
        if self._peer_life:
            raise LinkForgotten("it has ended the link")
        if now < self._reopened_at + self._beat_s / 2:
            return
        # Our opening was lost and what followed it arrived.
        self._reopened_at = now
        self._must_greet = self._wants_answer = True
        self._resend_after(0)

    def _on_stranger(self, now: float) -> None:
        """Frames of a life that has not introduced itself: its `HELLO` was lost, or it is over."""
        self._ask(now)
        if self._wants_resend:
            self._wants_answer = True

    def _resend_after(self, received: int) -> None:
        self._resend_from = received + 1

    # -- settling

    def settle(self, now: float, commit: int = 0) -> None:
        """A turn ends: what it heard is settled, or will be by that commit."""
        if commit:
            self._gates.append((commit, self._received))
        elif self._gates:
            self._gates[-1] = (self._gates[-1][0], self._received)
        elif self._settled != self._received:
            self._settle_up_to(self._received, now)

    def committed(self, number: int, now: float) -> bool:
        """That commit is durable. Whether frames still wait for another."""
        gates = self._gates
        while gates and gates[0][0] <= number:
            self._settle_up_to(gates.popleft()[1], now)
        return bool(gates)

    def _settle_up_to(self, seq: int, now: float) -> None:
        self._settled = seq
        if seq - self._ack_told >= self._ack_frames or self._unacked_bytes >= self._ack_bytes:
            self._ack_due_at = now
        elif self._ack_due_at is None and seq > self._ack_told:
            # Half a beat: the peer, with something unacknowledged, need not ask.
            self._ack_due_at = now + self._beat_s / 2

    # -- speaking

    def queue(self, body: bytes) -> None:
        """Say that, when its turn comes and the window has room."""
        if not self.refusal:
            self._backlog.append(body)

    def speak(self, now: float) -> list[bytes]:
        """The frames that are to leave now, in this order."""
        frames: list[bytes] = []
        if self._must_greet:
            frames.append(self._greeting())
        if self._resend_from:
            self._resend(frames)
        backlog = self._backlog
        while backlog and self._has_room_for(len(backlog[0])):
            body = backlog.popleft()
            self._flight.append(body)
            self._flight_bytes += len(body)
            self._bytes_sent += len(body)
            self._sent += 1
            frames.append(_pack(DATA, self._link, self._sent, self._settled) + body)
        if not frames:
            kind = self._kind_due(now)
            if not kind:
                return frames
            frames.append(_pack(kind, self._link, self._sent, self._settled))
        self._spoke_at = now
        self._ack_told = self._settled
        self._ack_due_at = None
        self._unacked_bytes = 0
        return frames

    def _has_room_for(self, nbytes: int) -> bool:
        flight = self._flight
        return (
            not flight
            or self._is_closing
            or (
                len(flight) < self._flight_frames_max
                and self._flight_bytes + nbytes <= self._flight_bytes_max
            )
        )

    def _kind_due(self, now: float) -> int:
        if self._flight and now >= self._spoke_at + self._beat_s:
            return BEAT
        return ACK if self._ack_due_at is not None and now >= self._ack_due_at else 0

    def _greeting(self) -> bytes:
        hello = Hello(
            protocol=PROTOCOL,
            cluster=self._cluster,
            address=self.address,
            life=self.life,
            peer_life=self._peer_life,
            received=self._received,
            wants_answer=self._wants_answer,
            wants_resend=self._wants_resend,
        )
        self._must_greet = self._wants_answer = self._wants_resend = False
        return _pack(HELLO, self._link, self._sent, self._settled) + encode_hello(hello)

    def _resend(self, frames: list[bytes]) -> None:
        first = max(self._resend_from, self._acked + 1)
        self._resend_from = 0
        self._resent += self._sent - first + 1
        for seq, body in enumerate(islice(self._flight, first - self._acked - 1, None), first):
            frames.append(_pack(DATA, self._link, seq, self._settled) + body)

    # -- trouble and the end

    def repeat(self) -> None:
        """The carrier lost what was in flight, or may have: introduce and say all of it again."""
        if self.refusal:
            return
        self._must_greet = self._wants_resend = True
        self._wants_answer = not self._peer_life
        self._resend_after(0)

    def refuse(self, reason: str) -> None:
        """Nothing more is said or accepted."""
        self.refusal = reason
        self._peer_link = _NOBODY
        self._flight.clear()
        self._backlog.clear()
        self._gates.clear()
        self._acked = self._sent
        self._flight_bytes = self._resend_from = 0
        self._ack_due_at = None
        self._must_greet = self._wants_answer = self._wants_resend = False

    def unacknowledged(self) -> list[bytes]:
        """The bodies that the peer has not settled, as far as known, in order."""
        return [*self._flight, *self._backlog]

    def last_words(self, now: float) -> list[bytes]:
        """All that is still to be said, whatever the window; the link is forgotten after it."""
        self._is_closing = True
        if self._settled > self._ack_told:
            self._ack_due_at = now
        return self.speak(now)

    # -- time and figures

    def deadline(self) -> float | None:
        """When `speak` has something to say if nothing else happens."""
        due = self._ack_due_at
        if self._flight:
            beat_at = self._spoke_at + self._beat_s
            if due is None or beat_at < due:
                return beat_at
        return due

    def check(self) -> None:
        """Raise `InvariantError` if the numbers do not fit together."""
        flight = self._flight
        is_sound = (
            self._acked + len(flight) == self._sent
            and self._flight_bytes == sum(map(len, flight))
            and self._ack_told <= self._settled <= self._received
            and (len(flight) <= self._flight_frames_max or self._is_closing)
            and (self._flight_bytes <= self._flight_bytes_max or len(flight) == 1)
            and (not self._gates or self._settled <= self._gates[-1][1] <= self._received)
        )
        if not is_sound:
            raise InvariantError(f"link {self.address} to {self.peer}: {dict(self.snapshot())}")

    def snapshot(self) -> Mapping[str, object]:
        """Plain figures."""
        return {
            "life": self.life,
            "peer_life": self._peer_life,
            "sent": self._sent,
            "acked": self._acked,
            "received": self._received,
            "settled": self._settled,
            "in_flight": len(self._flight),
            "in_flight_bytes": self._flight_bytes,
            "backlog": len(self._backlog),
            "bytes_sent": self._bytes_sent,
            "bytes_heard": self._bytes_heard,
            "resent": self._resent,
            "duplicates": self._duplicates,
            "gaps": self._gaps,
            "restarts": self._restarts,
            "refusal": self.refusal,
        }
