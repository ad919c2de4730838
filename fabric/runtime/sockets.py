"""Every ZeroMQ socket of the fabric is made here, and no other file sets a socket option.

A machine listens on one ROUTER, a dialer has one DEALER a peer, and the control store also
publishes. On one machine all of them are ``ipc://`` files named after an address, in the runtime
directory; an address is never used twice, so nothing meant for a dead machine reaches a
successor. What depends on a transport (keys, keep-alive) belongs into `_made`. Nothing here
sends, receives or waits.

Two settings differ from what one expects. Dialers do *not* set IMMEDIATE: with it, libzmq throws
away whatever a dead peer had said and nobody had read yet
(``docs/decisions/0002-draining-a-dead-worker.md``). And sockets may queue far more frames than
links keep in flight: the link's window, counted in bytes, is the limit; the socket's is a belt,
because a ROUTER at its limit drops.
"""

import errno
import os
import socket as unix
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

from fabric.exceptions import ConfigError, ForkedProcessError
from fabric.ids import Address

LIBZMQ_MIN = (4, 3, 4)
SOCKETS_MAX = 16_384
QUEUE_FRAMES_MAX = 50_000
PUBLISHED_FRAMES_MAX = 10_000
FRAME_OVERHEAD_BYTES = 64 * 1024
HANDSHAKE_MS = 3000
REDIAL_MS = 5
REDIAL_MS_MAX = 100
BACKLOG = 1024
IPC_PATH_BYTES_MAX = 107


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context for this process's sockets: one I/O thread, and no waiting at its end."""
    check_libzmq(zmq.zmq_version_info())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
    return context


def check_libzmq(version: tuple[int, int, int]) -> None:
    """Refuse a libzmq with the holes that 4.3.3 and 4.3.4 closed."""
    if version < LIBZMQ_MIN:
        has, needs = (".".join(map(str, numbers)) for numbers in (version, LIBZMQ_MIN))
        raise ConfigError(
            f"libzmq {has} is too old: fabric needs {needs}, older ones can be attacked.",
            advice="Install a wheel of pyzmq, which brings its own: `pip install -U pyzmq`.",
        )


def file_of(directory: str, name: str) -> str:
    """The socket file of an address, or of the publisher's name, in a runtime directory."""
    path = os.path.join(directory, name.replace(":", "-"))
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
        raise ConfigError(
            f"The socket path {path!r} is longer than {IPC_PATH_BYTES_MAX} bytes.",
            advice="Point XDG_RUNTIME_DIR at a shorter directory.",
        )
    return path


def listen(
    context: zmq.Context[zmq.Socket[bytes]], directory: str, own: Address, frame_bytes_max: int
) -> zmq.Socket[bytes]:
    """The ROUTER of a machine, bound at its address; to send to an absentee raises."""
    router = _made(context, zmq.ROUTER, QUEUE_FRAMES_MAX, frame_bytes_max)
    router.set(zmq.ROUTER_MANDATORY, 1)
    router.set(zmq.ROUTER_HANDOVER, 1)
    router.set(zmq.BACKLOG, BACKLOG)
    router.bind("ipc://" + file_of(directory, own))
    return router


def dialer(
    context: zmq.Context[zmq.Socket[bytes]], own: Address, frame_bytes_max: int
) -> zmq.Socket[bytes]:
    """A DEALER that will say who it is; `connect` it."""
    dealer = _made(context, zmq.DEALER, QUEUE_FRAMES_MAX, frame_bytes_max)
    dealer.set(zmq.ROUTING_ID, own.encode())
    dealer.set(zmq.RECONNECT_IVL, REDIAL_MS)
    dealer.set(zmq.RECONNECT_IVL_MAX, REDIAL_MS_MAX)
    return dealer


def connect(dealer: zmq.Socket[bytes], directory: str, peer: Address) -> None:
    """Dial a peer; what is sent before it listens waits in order."""
    dealer.connect("ipc://" + file_of(directory, peer))


def publish(
    context: zmq.Context[zmq.Socket[bytes]], directory: str, name: str, frame_bytes_max: int
) -> zmq.Socket[bytes]:
    """A PUB, bound. A subscriber that does not keep up misses frames and has to ask."""
    publisher = _made(context, zmq.PUB, PUBLISHED_FRAMES_MAX, frame_bytes_max)
    publisher.set(zmq.BACKLOG, BACKLOG)
    publisher.bind("ipc://" + file_of(directory, name))
    return publisher


def subscribe(
    context: zmq.Context[zmq.Socket[bytes]], directory: str, name: str, frame_bytes_max: int
) -> zmq.Socket[bytes]:
    """A SUB for everything that publisher says."""
    subscriber = _made(context, zmq.SUB, 0, frame_bytes_max)
    subscriber.set(zmq.RECONNECT_IVL, REDIAL_MS)
    subscriber.set(zmq.RECONNECT_IVL_MAX, REDIAL_MS_MAX)
    subscriber.set(zmq.SUBSCRIBE, b"")
    subscriber.connect("ipc://" + file_of(directory, name))
    return subscriber


def sender(made: zmq.Socket[bytes]) -> Callable[[bytes, int], object]:
    """The socket's plain `send`, without the handling of groups that pyzmq wraps around it."""
    plain: Callable[[bytes, int], object] = super(zmq.Socket, made).send
    return plain


def reader_of_options(made: zmq.Socket[bytes]) -> Callable[[int], Any]:
    """The socket's plain `get`, without making enums of numbers."""
    plain: Callable[[int], Any] = super(zmq.Socket, made).get
    return plain


def monitor(watched: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """A PAIR on which libzmq's I/O thread reports these events of a socket."""
    return watched.get_monitor_socket(events)


def unmonitor(watched: zmq.Socket[bytes], pair: zmq.Socket[bytes]) -> None:
    """End `monitor`."""
    watched.disable_monitor()
    pair.close(linger=0)


def close(made: zmq.Socket[bytes], linger_s: float = 0.0) -> None:
    """Close a socket; what it still has to send may delay the end of its context that long."""
    made.close(linger=round(linger_s * 1000))


def remove_file(directory: str, name: str) -> None:
    """Remove the socket file of a machine that has ended, also a killed one; libzmq leaves them."""
    with suppress(FileNotFoundError):
        os.unlink(file_of(directory, name))


def _made(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, sent_frames_max: int, frame_bytes_max: int
) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.set(zmq.LINGER, 0)
    made.set(zmq.SNDHWM, sent_frames_max)
    made.set(zmq.RCVHWM, QUEUE_FRAMES_MAX)
    made.set(zmq.MAXMSGSIZE, frame_bytes_max + FRAME_OVERHEAD_BYTES)
    made.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    return made


def is_gone(path: str) -> bool:
    """True if nobody listens at a socket file. Asks the kernel, not the peer, and does not wait."""
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(path) in (errno.ECONNREFUSED, errno.ENOENT)


class Custody:
    """Whose sockets these are: one process's for ever, one thread's at a time.

    A socket used after a fork would speak for the parent without any error; used by two threads it
    corrupts memory. The first is checked always, the second unless Python runs with ``-O``.
    """

    __slots__ = ("_pid", "_thread")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._thread = 0

    def take(self) -> None:
        """The calling thread has the sockets from now on; who had them has stopped using them."""
        self._thread = threading.get_ident()

    def check(self) -> None:
        """Raise unless the caller may use the sockets; the first to ask takes them."""
        if os.getpid() != self._pid:
            raise ForkedProcessError(
                f"Process {os.getpid()} was forked from {self._pid}, whose sockets it may not use."
            )
        if __debug__ and self._thread != threading.get_ident():
            assert self._thread == 0, (
                "the sockets belong to another thread, which did not hand over"
            )
            self._thread = threading.get_ident()
