"""Size classes and the layout of a value: pure arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.sizes import (
    ALIGNMENT,
    HEADER_BYTES,
    PAGE_BYTES,
    TABLE_ENTRY_BYTES,
    layout,
    segment_bytes,
    size_class,
)

CLASSES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 7: 7, 8: 8, 9: 10, 10: 10, 11: 12, 13: 14, 15: 16, 16: 16}
LARGER = {17: 20, 21: 24, 25: 28, 29: 32, 33: 40, 100: 112}


@pytest.mark.parametrize(("pages", "expected"), [*CLASSES.items(), *LARGER.items()])
def test_there_are_four_classes_an_octave(pages: int, expected: int) -> None:
    assert size_class(pages * PAGE_BYTES) == expected * PAGE_BYTES


def test_an_empty_value_takes_a_page() -> None:
    assert size_class(0) == size_class(1) == size_class(PAGE_BYTES) == PAGE_BYTES


@given(st.integers(0, 1 << 50))
def test_a_class_fits_wastes_a_quarter_at_most_and_is_its_own_class(nbytes: int) -> None:
    size = size_class(nbytes)
    assert size >= nbytes
    assert size % PAGE_BYTES == 0
    assert size <= nbytes * 5 / 4 + PAGE_BYTES
    assert size_class(size) == size


def test_a_value_without_buffers_is_a_header_and_its_pickle() -> None:
    assert layout(10, []) == (HEADER_BYTES, [], HEADER_BYTES + 10)
    assert segment_bytes(10, []) == HEADER_BYTES + 10


@given(st.integers(0, 10_000), st.lists(st.integers(0, 10_000)))
def test_buffers_lie_aligned_and_apart(pickled: int, lengths: list[int]) -> None:
    start, offsets, end = layout(pickled, lengths)
    assert start == HEADER_BYTES + TABLE_ENTRY_BYTES * len(lengths)
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    begins = [*offsets, end]
    ends = [start + pickled, *(o + n for o, n in zip(offsets, lengths, strict=True))]
    assert all(a <= b for a, b in zip(ends, begins, strict=True))
    assert end == ends[-1]
