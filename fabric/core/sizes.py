"""How large a segment is: its size class, and where the parts of a value lie in it.

Pure arithmetic, shared by who asks for a segment, who makes it, who writes it and who reads it. A
segment is a header, a table of buffers, the pickle, and each buffer on a cache line of its own.
Nothing here knows what the parts contain.
"""

from collections.abc import Sequence

PAGE_BYTES = 4096
ALIGNMENT = 64
"""Buffers begin at multiples of this: a cache line, and what Arrow wishes for."""

HEADER_BYTES = 64
TABLE_ENTRY_BYTES = 16
CLASSES_PER_OCTAVE = 4


def aligned(nbytes: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def size_class(nbytes: int) -> int:
    """The size of the segment for a value of that many bytes: four classes per octave, whole pages.

    A segment is recycled for any value of its class, and at most a fifth of it is not used (beyond
    the last page).
    """
    pages = max(1, -(-nbytes // PAGE_BYTES))
    step = max(1, (1 << (pages - 1).bit_length()) // (2 * CLASSES_PER_OCTAVE))
    return -(-pages // step) * step * PAGE_BYTES


def layout(pickled: int, buffers: Sequence[int]) -> tuple[int, list[int], int]:
    """Where the pickle and each buffer begin, and where the last one ends, given their lengths."""
    start = HEADER_BYTES + TABLE_ENTRY_BYTES * len(buffers)
    end = start + pickled
    offsets = []
    for length in buffers:
        offset = aligned(end)
        offsets.append(offset)
        end = offset + length
    return start, offsets, end


def segment_bytes(pickled: int, buffers: Sequence[int]) -> int:
    """The bytes that a value takes in a segment, header and table included."""
    return layout(pickled, buffers)[2]
