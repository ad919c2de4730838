"""A frame on the wire: a header of 25 bytes, then what was to be said.

Every frame carries the link it belongs to, the number of the last numbered frame its sender sent,
and a cumulative acknowledgement. Only `DATA` is numbered; its body is the messages of one turn for
one peer. `HELLO` has a `Hello` as body, the other kinds have none. What the numbers mean is decided
in `fabric.core.link`; here they are only packed, and what cannot be read is refused with
`FrameError`. Values of user code inside messages stay opaque bytes.
"""

import hashlib
import struct

import msgspec

from fabric.ids import Address
from fabric.protocol.messages import AnyMessage

HEADER = struct.Struct("<BQQQ")
"""Kind, link, seq, ack."""

HEADER_BYTES = HEADER.size

HELLO = 1
"""Who I am, what I have heard, and whether I want an answer or a resend. Unnumbered."""
DATA = 2
"""Messages. Numbered from 1 without gaps."""
BEAT = 3
"""Something of mine is unacknowledged: say what you have heard. Unnumbered, repeats seq."""
ACK = 4
"""What I have heard; wants no answer. Unnumbered, repeats seq."""
UNKNOWN = 5
"""I know no such link (its number is the one refused): introduce yourself. Unnumbered.

Its seq is the newest life that I have given a link so far: a younger one is not meant.
"""

ARRAY_HEADER_BYTES = 5
"""The most that msgpack puts before the items of a list."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[AnyMessage]).decode


class FrameError(ValueError):
    """A frame that cannot be read, or must not be sent or heard; the text says why."""


class Hello(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The body of a `HELLO`: what two processes must agree on, and where their link stands.

    ``life`` numbers the links that ``address`` ever made; ``peer_life`` is the peer's as far as
    known, else 0. ``received`` is the last frame heard in order, settled or not. Only the first two
    must be there, so that another protocol is refused by its number and not as garbage.
    """

    protocol: int
    cluster: str
    address: Address = Address("")
    life: int = 0
    peer_life: int = 0
    received: int = 0
    wants_answer: bool = False
    wants_resend: bool = False


_encode_hello = msgspec.msgpack.Encoder().encode
_decode_hello = msgspec.msgpack.Decoder(Hello).decode

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises at bytes from outside; the last at what is nested too deeply."""


def link_number(sender: Address, hearer: Address, life: int) -> int:
    """What a sender stamps on its frames to that peer, in that life of the link."""
    text = f"{sender}>{hearer}>{life}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def unpack_header(frame: bytes) -> tuple[int, int, int, int]:
    """Kind, link, seq and ack of a frame."""
    try:
        header: tuple[int, int, int, int] = HEADER.unpack_from(frame)
    except struct.error:
        raise FrameError(f"a frame of {len(frame)} bytes is shorter than its header") from None
    return header


def encode_hello(hello: Hello) -> bytes:
    """The body of a `HELLO`."""
    return _encode_hello(hello)


def decode_hello(frame: bytes) -> Hello:
    """What a `HELLO` says, strictly read."""
    try:
        return _decode_hello(memoryview(frame)[HEADER_BYTES:])
    except _UNREADABLE as error:
        raise FrameError(f"a hello that cannot be read: {error}") from None


def encode_messages(messages: list[AnyMessage]) -> bytes:
    """The body of a `DATA`."""
    return _encode(messages)


def decode_messages(body: bytes | memoryview) -> list[AnyMessage]:
    """What a `DATA` says, strictly read: all of it is of the closed set, or none is heard."""
    try:
        return _decode(body)
    except _UNREADABLE as error:
        raise FrameError(f"messages that cannot be read: {error}") from None


def encode_bodies(
    messages: list[AnyMessage], batch_bytes_max: int, frame_bytes_max: int
) -> list[bytes]:
    """The bodies of the frames that say all this in order, each about ``batch_bytes_max`` at most.

    A message is never divided; one that no frame can hold is the fault of whoever made it.
    """
    bytes_max = min(batch_bytes_max, frame_bytes_max - HEADER_BYTES)
    whole = _encode(messages)
    if len(whole) <= bytes_max:
        return [whole]
    batches: list[list[msgspec.Raw]] = []
    room = 0
    for message in messages:
        encoded = _encode(message)
        _check_size(message, len(encoded), frame_bytes_max)
        if len(encoded) > room:
            batches.append([])
            room = bytes_max - ARRAY_HEADER_BYTES
        batches[-1].append(msgspec.Raw(encoded))
        room -= len(encoded)
    return [_encode(batch) for batch in batches]


def _check_size(message: AnyMessage, nbytes: int, frame_bytes_max: int) -> None:
    if nbytes + ARRAY_HEADER_BYTES + HEADER_BYTES > frame_bytes_max:
        raise FrameError(
            f"a {type(message).__name__} of {nbytes} bytes is larger than a frame may be "
            f"(frame_bytes_max={frame_bytes_max})"
        )
