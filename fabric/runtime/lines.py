"""The sockets of one loop as it uses them: hear what waits, say one frame.

Each line wraps one socket of `fabric.runtime.sockets` and knows whose words arrive on it. Calls
into pyzmq are counted here: asking for a socket's events costs a third of the exception of a
`recv` that finds nothing, so `recv` is tried unasked only where a frame is likely. What to say to
whom, and what a broken connection means, is not decided here.
"""

import errno
import re
import sys
from collections.abc import Callable
from typing import Protocol

import msgspec
import zmq

from fabric.ids import Address
from fabric.protocol.cluster import ViewChanged
from fabric.runtime import sockets

Hear = Callable[[Address, bytes, float], None]
"""Takes who spoke, the frame and the time."""

NOBLOCK = int(zmq.NOBLOCK)
NOBLOCK_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
EVENTS = int(zmq.EVENTS)
RCVMORE = int(zmq.RCVMORE)
POLLIN = int(zmq.POLLIN)

CONNECTED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
DIALING = int(zmq.EVENT_CONNECT_RETRIED) | int(zmq.EVENT_CONNECT_DELAYED)
"""What libzmq reports while there is no connection, also to a monitor made after the end."""

IDENTITY = re.compile(rb"[cwns]:[0-9a-f]{16}")


class Line(Protocol):
    """A socket on which something arrives."""

    socket: zmq.Socket[bytes]
    is_touched: bool
    """Used since it last had no frames: its descriptor may be silent though some wait."""

    def has_frames(self) -> bool:
        """True if a frame waits; after a False the descriptor tells of the next one."""

    def hear(self, now: float, frames_max: int) -> int:
        """Hear the frames that wait, up to that many; the result is how many."""


class Dialed:
    """The DEALER to one peer, with a monitor where its connection matters.

    `is_connected` is what the monitor said last, and False as long as there is none.
    """

    __slots__ = (
        "_get",
        "_hear",
        "_recv",
        "_send",
        "drain_by",
        "is_connected",
        "is_touched",
        "monitor",
        "peer",
        "socket",
        "was_connected",
    )

    def __init__(self, peer: Address, socket: zmq.Socket[bytes], hear: Hear) -> None:
        self.peer = peer
        self.socket = socket
        self.monitor: zmq.Socket[bytes] | None = None
        self.is_connected = False
        self.was_connected = False
        self.is_touched = False
        self.drain_by: float | None = None
        self._hear = hear
        self._recv = socket.recv
        self._send = sockets.sender(socket)
        self._get = sockets.reader_of_options(socket)

    def has_frames(self) -> bool:
        return bool(self._get(EVENTS) & POLLIN)

    def hear(self, now: float, frames_max: int) -> int:
        heard = 0
        while frames_max:
            try:
                frame = self._recv(NOBLOCK)
            except zmq.Again:  # the descriptor told of a new connection, or of room
                break
            heard += 1
            self._hear(self.peer, frame, now)
            if heard == frames_max or not self.has_frames():
                break
        return heard

    def say(self, frame: bytes) -> bool:
        """Queue a frame; False if the queue is full, then the link will have to say it again."""
        try:
            self._send(frame, NOBLOCK)
        except zmq.Again:
            return False
        return True

    def watch(self, events: int) -> zmq.Socket[bytes]:
        """Have libzmq report these events of the connection from now on."""
        self.monitor = sockets.monitor(self.socket, events)
        return self.monitor

    def read_monitor(self) -> bool:
        """Learn what became of the connection; True if one came after an earlier one."""
        monitor, came_back = self.monitor, False
        while monitor is not None and int(monitor.getsockopt(EVENTS)) & POLLIN:
            event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
            self.is_connected = event == CONNECTED
            came_back |= self.is_connected and self.was_connected
            self.was_connected |= event in (CONNECTED, DISCONNECTED)
        return came_back

    def unwatch(self) -> None:
        """End what `watch` began."""
        if self.monitor is not None:
            sockets.unmonitor(self.socket, self.monitor)
            self.monitor = None


class Listener:
    """The ROUTER, and who has been heard on it."""

    __slots__ = (
        "_get",
        "_hear",
        "_identities",
        "_peers",
        "_recv",
        "_send",
        "is_touched",
        "socket",
    )

    def __init__(self, socket: zmq.Socket[bytes], hear: Hear) -> None:
        self.socket = socket
        self.is_touched = False
        self._hear = hear
        self._recv = socket.recv
        self._send = sockets.sender(socket)
        self._get = sockets.reader_of_options(socket)
        self._peers: dict[bytes, Address] = {}
        self._identities: dict[Address, bytes] = {}

    def __contains__(self, peer: Address) -> bool:
        return peer in self._identities

    def has_frames(self) -> bool:
        return bool(self._get(EVENTS) & POLLIN)

    def hear(self, now: float, frames_max: int) -> int:
        heard = 0
        while frames_max:
            try:
                identity = self._recv(NOBLOCK)
            except zmq.Again:  # the descriptor told of a new connection, or of room
                break
            heard += 1
            frame = self._recv(NOBLOCK)
            peer = self._peers.get(identity) or self._admit(identity)
            if self._get(RCVMORE):
                self._skip()
            elif peer is not None:
                self._hear(peer, frame, now)
            if heard == frames_max or not self.has_frames():
                break
        return heard

    def _admit(self, identity: bytes) -> Address | None:
        """Somebody new: their address, unless they are no machine of ours."""
        if IDENTITY.fullmatch(identity) is None:
            return None
        peer = Address(identity.decode())
        self._peers[identity] = peer
        self._identities[peer] = identity
        return peer

    def _skip(self) -> None:
        """Ours are messages of one frame; whoever sends more is not heard."""
        while self._get(RCVMORE):
            self._recv(NOBLOCK)

    def say(self, peer: Address, frame: bytes) -> bool:
        """Queue a frame for who dialed us; False if they are gone, or their queue is full."""
        try:
            self._send(self._identities[peer], NOBLOCK_MORE)
            self._send(frame, NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self.forget(peer)
            return False
        return True

    def forget(self, peer: Address) -> None:
        """Nothing more will be said to them, unless they speak again."""
        identity = self._identities.pop(peer, None)
        if identity is not None:
            del self._peers[identity]


class Subscription:
    """The SUB to one publisher: a hint of what changed, outside the links."""

    __slots__ = ("_decoder", "_hear", "is_touched", "publisher", "socket")

    def __init__(
        self,
        publisher: Address,
        socket: zmq.Socket[bytes],
        hear: Callable[[ViewChanged, Address, float], None],
    ) -> None:
        self.publisher = publisher
        self.socket = socket
        self.is_touched = False
        self._hear = hear
        self._decoder = msgspec.msgpack.Decoder(ViewChanged)

    def has_frames(self) -> bool:
        return bool(int(self.socket.getsockopt(EVENTS)) & POLLIN)

    def hear(self, now: float, frames_max: int) -> int:
        heard = 0
        while heard < frames_max and self.has_frames():
            frame = self.socket.recv(NOBLOCK)
            heard += 1
            self._hear(self._decoder.decode(frame), self.publisher, now)
        return heard


class Publisher:
    """The PUB of the control store."""

    __slots__ = ("_encoder", "socket")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._encoder = msgspec.msgpack.Encoder()

    def say(self, message: ViewChanged) -> None:
        """Tell all who subscribed; who is too slow misses it, and notices by the sequence."""
        self.socket.send(self._encoder.encode(message), NOBLOCK)
