"""Whose line it is: marked and unmarked bytes, cut anywhere, become blocks of whole lines."""

import pytest

from fabric.runtime.marks import (
    END,
    END_OF_LINE,
    LINE_BYTES_MAX,
    NAME_BYTES_MAX,
    Block,
    Splitter,
    begin_mark,
    encode_name,
)

F, G = begin_mark(b"f"), begin_mark(b"g")


def unmarked() -> str:
    return "c"


@pytest.mark.parametrize(
    ("written", "blocks"),
    [
        (b"", []),
        (b"raw\n", [("c", b"raw\n")]),
        (F + b"one\n" + END, [("f", b"one\n")]),
        (F + b"one\n" + END + F + b"two\n" + END, [("f", b"one\ntwo\n")]),
        (F + b"one\n" + END + b"raw\n" + G + b"two\n" + END, [
            ("f", b"one\n"), ("c", b"raw\n"), ("g", b"two\n"),
        ]),
        (F + b"be" + END + F + b"gun\n" + END, [("f", b"begun\n")]),
        (F + b"be" + END + G + b"gun\n" + END, [("f", b"be\n"), ("g", b"gun\n")]),
        (F + b"over" + END_OF_LINE + F + b"next\n" + END, [("f", b"over\n"), ("f", b"next\n")]),
        (F + END_OF_LINE + F + b"next\n" + END, [("f", b"next\n")]),
        (b"\x1e\x1efb(\x1f\n", [("c", b"\x1e\x1efb(\x1f\n")]),
        (b"\x1efb(" + b"x" * 300 + b"\n", [("c", b"\x1efb(" + b"x" * 300 + b"\n")]),
    ],
)  # fmt: skip
def test_lines_have_the_name_of_their_mark_or_else_of_the_shared_word(
    written: bytes, blocks: list[tuple[str, bytes]]
) -> None:
    assert Splitter().feed(written, unmarked)[1] == blocks


def test_however_the_bytes_are_cut_the_lines_and_the_log_are_the_same() -> None:
    written = b"raw\n" + F + b"one\ntw" + END + F + b"o\n" + END + b"\x1efx\n" + G + b"x\n" + END
    lines = [("c", "raw"), ("f", "one"), ("f", "two"), ("c", "\x1efx"), ("g", "x")]
    for step in range(1, 8):
        splitter, plain, found = Splitter(), b"", []
        for at in range(0, len(written), step):
            kept, blocks = splitter.feed(written[at : at + step], unmarked)
            plain += kept
            found += [
                (name, one) for name, text in blocks for one in text.decode().split("\n")[:-1]
            ]
        assert (plain, found) == (b"raw\none\ntwo\n\x1efx\nx\n", lines)
        assert not splitter.has_rest


def test_an_unfinished_line_is_given_when_nothing_more_comes() -> None:
    splitter = Splitter()
    assert splitter.feed(F + b"unfin" + END + b"\x1ef", unmarked) == (b"unfin", [])
    assert splitter.has_rest
    assert splitter.rest() == (b"\x1ef", [Block("f", b"unfin\x1ef\n")])
    assert splitter.rest() == (b"", [])


def test_a_line_without_end_is_cut_and_not_gathered() -> None:
    splitter = Splitter()
    blocks = [block for _ in range(40) for block in splitter.feed(b"x" * 1000, unmarked)[1]]
    assert sum(len(block.text) - 1 for block in blocks) >= 40_000 - LINE_BYTES_MAX
    assert max(len(block.text) for block in blocks) <= LINE_BYTES_MAX + 1001


def test_names_lose_what_would_end_a_mark_and_what_is_too_long() -> None:
    assert encode_name("f.<locals>.g\x1f\x1e\n") == b"f.<locals>.g???"
    assert len(encode_name("ü" * 300)) == NAME_BYTES_MAX
    assert len(encode_name("x" + "ü" * 300)) == NAME_BYTES_MAX - 1
