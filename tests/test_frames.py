"""Frames: packed and read back whole, cut where they are told to, refused when they are garbage."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.ids import Address, CallId, JobId
from fabric.protocol.frames import (
    DATA,
    HEADER,
    HEADER_BYTES,
    FrameError,
    Hello,
    decode_hello,
    decode_messages,
    encode_bodies,
    encode_hello,
    encode_messages,
    link_number,
    unpack_header,
)
from fabric.protocol.messages import AnyMessage, EndWorker, Release, ReturnLease, Taken, WorkerReady

A, B = Address("c:0101010101010101"), Address("w:0202020202020202")
HELLO_OF_A = Hello(1, "cluster", A, 3, 2, 7, True, False)
MANY: list[AnyMessage] = [ReturnLease(number) for number in range(100)]


def test_a_header_is_the_same_after_packing_and_unpacking() -> None:
    header = (DATA, 2**64 - 1, 2**63, 7)
    assert HEADER_BYTES == 25
    assert unpack_header(HEADER.pack(*header) + b"body") == header


def test_a_frame_shorter_than_its_header_is_refused() -> None:
    with pytest.raises(FrameError, match="shorter than its header"):
        unpack_header(b"\x02" * 24)


def test_a_hello_is_the_same_after_encoding_and_decoding() -> None:
    assert decode_hello(bytes(HEADER_BYTES) + encode_hello(HELLO_OF_A)) == HELLO_OF_A


def test_a_hello_of_another_protocol_is_read_as_far_as_it_must_be() -> None:
    body = msgspec.msgpack.encode([99, "cluster"])
    assert decode_hello(bytes(HEADER_BYTES) + body) == Hello(99, "cluster")
    body = msgspec.msgpack.encode(
        [*msgspec.structs.astuple(HELLO_OF_A), "said by a later protocol"]
    )
    assert decode_hello(bytes(HEADER_BYTES) + body) == HELLO_OF_A


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", msgspec.msgpack.encode(["1", "x"]), msgspec.msgpack.encode([1, "x", 3])]
)
def test_a_hello_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError, match="hello that cannot be read"):
        decode_hello(bytes(HEADER_BYTES) + body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90rest",
        msgspec.msgpack.encode([["no_such_message", 1]]),
        msgspec.msgpack.encode([["worker_ready"]]),
        msgspec.msgpack.encode([["worker_ready", "1"]]),
        msgspec.msgpack.encode({"worker_ready": 1}),
        b"\x91\xa3\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x91\x92\xaaend_worker" + b"\x91" * 100_000,
    ],
    ids=range(9),
)
def test_messages_that_cannot_be_read_are_refused(body: bytes) -> None:
    with pytest.raises(FrameError, match="messages that cannot be read"):
        decode_messages(body)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(garbage: bytes) -> None:
    for read in (unpack_header, decode_hello, decode_messages):
        with contextlib.suppress(FrameError):
            read(garbage)


def test_messages_are_read_from_inside_a_frame_without_copying_it() -> None:
    frame = bytes(HEADER_BYTES) + encode_messages([WorkerReady(7), EndWorker()])
    assert decode_messages(memoryview(frame)[HEADER_BYTES:]) == [WorkerReady(7), EndWorker()]


def test_the_messages_of_a_turn_are_one_body_if_they_fit() -> None:
    assert encode_bodies(MANY, 10_000, 10_000) == [encode_messages(MANY)]


@pytest.mark.parametrize("bytes_max", [50, 100, 1000])
def test_bodies_are_cut_at_the_limit_between_messages(bytes_max: int) -> None:
    bodies = encode_bodies(MANY, bytes_max, 10_000)
    assert [each for body in bodies for each in decode_messages(body)] == MANY
    assert max(map(len, bodies)) <= bytes_max
    assert min(map(len, bodies[:-1])) > bytes_max - 30


def test_a_message_above_the_batch_limit_travels_alone() -> None:
    large = Taken((CallId(b"x" * 14),) * 20)
    bodies = encode_bodies([EndWorker(), large, EndWorker()], 40, 10_000)
    assert [decode_messages(body) for body in bodies] == [[EndWorker()], [large], [EndWorker()]]


def test_a_frame_stays_below_what_its_hearer_accepts_even_if_a_batch_may_be_larger() -> None:
    bodies = encode_bodies(MANY, 10_000, 200)
    assert [each for body in bodies for each in decode_messages(body)] == MANY
    assert max(map(len, bodies)) + HEADER_BYTES <= 200


def test_a_message_that_no_frame_can_hold_is_named() -> None:
    with pytest.raises(FrameError, match=r"a Release of \d+ bytes .*frame_bytes_max=200"):
        encode_bodies([EndWorker(), Release((JobId(b"x" * 300),))], 100, 200)  # type: ignore[arg-type]


def test_each_direction_and_each_life_of_a_link_has_a_number_of_its_own() -> None:
    numbers = [link_number(A, B, 1), link_number(B, A, 1), link_number(A, B, 2)]
    assert len(dict.fromkeys(numbers)) == 3
    assert link_number(A, B, 1) == numbers[0]
    assert all(0 <= number < 2**64 for number in numbers)
