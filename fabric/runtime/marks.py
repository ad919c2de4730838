"""Marks in a worker's output: which task wrote the lines between them.

A worker's Python streams put a mark before and after each piece they write to the pipe; the node
takes the marks out again and cuts what is left into blocks of whole lines, each with the name of
who wrote it. What comes without marks (C code, subprocesses) has the name that the worker's shared
word says. Everything here is a function of the bytes: no descriptor, no clock.

A mark that user code writes by itself costs a wrong name, and nothing else.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

NAME_BYTES_MAX = 200
"""A longer name is cut."""

LINE_BYTES_MAX = 8 * 1024
"""An unfinished line is cut here."""

MARK_BYTES_MAX = NAME_BYTES_MAX + 5
END = b"\x1efb)\x1f"
END_OF_LINE = b"\x1efb;\x1f"
"""The same, where the line is over though no newline was written."""

MARK = re.compile(rb"\x1efb(?:\(([^\x1e\x1f]{1,%d})|([);]))\x1f" % NAME_BYTES_MAX)
MAYBE_MARK = re.compile(rb"\x1e(?:f(?:b(?:[);]|\([^\x1e\x1f]{0,%d})?)?)?\Z" % NAME_BYTES_MAX)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class Block(NamedTuple):
    """Whole lines of one name."""

    name: str
    text: bytes


def encode_name(name: str) -> bytes:
    """A name as marks and shared words carry it."""
    encoded = UNPRINTABLE.sub("?", name).encode(errors="replace")[:NAME_BYTES_MAX]
    return encoded.decode(errors="ignore").encode()  # a letter that was cut in two goes, too


def begin_mark(name: bytes) -> bytes:
    """What stands before the text of that name; `END` stands behind it."""
    return b"\x1efb(" + name + b"\x1f"


class Splitter:
    """Takes the bytes of one stream as they come; gives what to keep, and blocks of lines."""

    def __init__(self) -> None:
        self._held = b""  # the beginning of a mark, perhaps
        self._marked: str | None = None  # the name of the mark that is open
        self._line = b""  # the unfinished last line
        self._name = ""  # whose that is

    @property
    def has_rest(self) -> bool:
        """A line is unfinished."""
        return bool(self._line or self._held)

    def feed(self, chunk: bytes, unmarked: Callable[[], str]) -> tuple[bytes, list[Block]]:
        """The bytes without marks, and the lines that are complete now.

        ``unmarked`` is asked for the name of what has no mark, if there is any.
        """
        chunk = self._held + chunk
        tail = MAYBE_MARK.search(chunk, max(0, len(chunk) - MARK_BYTES_MAX))
        end = tail.start() if tail is not None else len(chunk)
        self._held = chunk[end:]
        pieces: list[bytes | None] = MARK.split(chunk[:end])  # text, name, end, text, name, …
        blocks: list[Block] = []
        for name, text in self._named(pieces, unmarked):
            if text is None:
                self._end_line(blocks)
            else:
                self._take(name, text, blocks)
        return b"".join(filter(None, pieces[::3])), blocks

    def rest(self) -> tuple[bytes, list[Block]]:
        """Nothing more comes for now: what is held back, and the unfinished line as a line."""
        plain, self._held = self._held, b""
        blocks: list[Block] = []
        if plain:
            self._take(self._marked or self._name, plain, blocks)
        self._end_line(blocks)
        return plain, blocks

    def _named(
        self, pieces: list[bytes | None], unmarked: Callable[[], str]
    ) -> list[tuple[str, bytes | None]]:
        """The texts with their names, neighbours of one name as one; None where a line is over."""
        named: list[tuple[str, bytes | None]] = []
        joined: list[bytes] = []  # of the name that stands last
        other: str | None = None
        last = ""
        for at in range(0, len(pieces), 3):
            is_over = False
            if at:
                mark, is_over = pieces[at - 2], pieces[at - 1] == b";"
                self._marked = None if mark is None else mark.decode(errors="replace")
            text = pieces[at]
            name = self._marked
            if text and name is None:
                name = other = unmarked() if other is None else other
            if joined and (is_over or (text and name != last)):
                named.append((last, b"".join(joined)))
                joined = []
            if is_over:
                named.append((last, None))
            if text and name is not None:
                joined.append(text)
                last = name
        if joined:
            named.append((last, b"".join(joined)))
        return named

    def _take(self, name: str, text: bytes, blocks: list[Block]) -> None:
        if self._line and name != self._name:
            self._end_line(blocks)
        self._name = name
        end = text.rfind(b"\n") + 1
        if end:
            blocks.append(Block(name, self._line + text[:end]))
            self._line = text[end:]
        else:
            self._line += text
        if len(self._line) > LINE_BYTES_MAX:
            self._end_line(blocks)

    def _end_line(self, blocks: list[Block]) -> None:
        if self._line:
            blocks.append(Block(self._name, self._line + b"\n"))
            self._line = b""
