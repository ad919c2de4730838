"""The flat image of a pickled value: what lies in a segment, and what travels inline.

A value is a pickle and the large buffers that were taken out of it. Its image is a header, a table
of the buffers, the pickle, and each buffer on a cache line of its own (`fabric.core.sizes`), so
that a reader needs nothing but the bytes and copies none of the buffers. Pickles without buffers
travel as they are: a pickle begins with another byte than an image. Nothing is pickled or
unpickled here.
"""

import struct
from collections.abc import Iterator, Sequence

import msgspec

from fabric.core.sizes import HEADER_BYTES, layout, segment_bytes
from fabric.exceptions import ObjectCorruptError
from fabric.ids import ObjectId

HEADER = struct.Struct("<8sQQQQ")
"""Magic, generation, whether it is complete, length of the pickle, number of buffers."""

MAGIC = b"\0fabric1"
SEALED = 1
TABLE_ENTRY = struct.Struct("<QQ")
"""Offset from the image's start, and length."""


class Dumped(msgspec.Struct, gc=False):
    """A pickled value: the pickle, the buffers outside of it, the refs met inside, all bytes."""

    pickled: bytes
    buffers: Sequence[memoryview] = ()
    refs: Sequence[ObjectId] = ()
    nbytes: int = 0

    def segment_bytes(self) -> int:
        """What to ask of the node for it: the length of its image."""
        return segment_bytes(len(self.pickled), [each.nbytes for each in self.buffers])

    def packed(self) -> bytes:
        """The value as one piece of bytes, for a message; `fabric.serialization.load` takes it."""
        if not self.buffers:
            return self.pickled
        return b"".join((header(self, generation=0), *body(self)))


def header(dumped: Dumped, generation: int) -> bytes:
    """The header of a complete image."""
    return packed_header(generation, SEALED, len(dumped.pickled), len(dumped.buffers))


def packed_header(generation: int, state: int, pickled: int, buffers: int) -> bytes:
    """A header of exactly `HEADER_BYTES`."""
    text = HEADER.pack(MAGIC, generation, state, pickled, buffers)
    return text.ljust(HEADER_BYTES, b"\0")


def body(dumped: Dumped) -> Iterator[bytes | memoryview]:
    """What follows the header, piece by piece and without gaps."""
    lengths = [each.nbytes for each in dumped.buffers]
    start, offsets, _ = layout(len(dumped.pickled), lengths)
    if offsets:
        yield b"".join(map(TABLE_ENTRY.pack, offsets, lengths))
    yield dumped.pickled
    end = start + len(dumped.pickled)
    for buffer, offset in zip(dumped.buffers, offsets, strict=True):
        if offset > end:
            yield bytes(offset - end)
        yield buffer
        end = offset + buffer.nbytes


def parts(image: memoryview) -> tuple[memoryview, list[memoryview]]:
    """The pickle and the buffers of an image, without copying. Raises if it does not fit itself."""
    magic, _, state, pickled, buffers = HEADER.unpack_from(image)
    start = HEADER_BYTES + TABLE_ENTRY.size * buffers
    if magic != MAGIC or state != SEALED or start + pickled > len(image):
        raise ObjectCorruptError("The bytes that should hold a value do not.")
    found = []
    for offset, length in TABLE_ENTRY.iter_unpack(image[HEADER_BYTES:start]):
        if offset + length > len(image):
            raise ObjectCorruptError("A value is shorter than its table says.")
        found.append(image[offset : offset + length])
    return image[start : start + pickled], found
