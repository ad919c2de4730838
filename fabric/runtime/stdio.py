"""A worker's ``sys.stdout`` and ``sys.stderr``: whole lines, each marked with who wrote it.

They write to the pipes that descriptors 1 and 2 are, in pieces that the kernel does not cut in two,
so lines of threads and of subprocesses do not mix. Nothing is done per call: the name is looked up
when something is written. What is not finished by a newline waits until the call ends, or for an
explicit flush. Who reads the pipes is not known here.
"""

import contextlib
import io
import os
import select
import sys
from threading import get_ident
from typing import Any

from fabric.context import running
from fabric.runtime.marks import END, END_OF_LINE, begin_mark, encode_name

PIECE_BYTES = select.PIPE_BUF
"""Writes up to this size are atomic."""

PENDING_BYTES_MAX = 8 * 1024
"""An unfinished line that is longer does not wait for its end."""

pending: dict[tuple[int, int], bytes] = {}
"""(descriptor, thread) -> the unwritten part of a line that is begun; it may be empty."""


class MarkedStream(io.BufferedIOBase):
    """The binary layer of one of the two."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self.mode = "wb"
        self._descriptor = descriptor
        self._named: str | None = None
        self._mark = b""

    def fileno(self) -> int:
        """What subprocesses inherit."""
        return self._descriptor

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: Any, /) -> int:
        """Write what is whole lines; keep the rest until its line ends."""
        new = bytes(text)
        key = (self._descriptor, get_ident())
        joined = pending.pop(key, b"") + new
        end = joined.rfind(b"\n") + 1
        if len(joined) - end > PENDING_BYTES_MAX:
            end = len(joined)
        if joined[-1:] not in (b"", b"\n"):
            pending[key] = joined[end:]
        if end:
            self._write_out(joined[:end])
        return len(new)

    def flush(self) -> None:
        """Write what this thread has begun; its line may go on."""
        key = (self._descriptor, get_ident())
        begun = pending.get(key)
        if begun:
            pending[key] = b""
            self._write_out(begun)

    def end_line(self, thread: int) -> None:
        """Write what that thread has begun; its line does not go on."""
        begun = pending.pop((self._descriptor, thread), None)
        if begun is not None:
            self._write_out(begun, END_OF_LINE)

    def _write_out(self, text: bytes, end: bytes = END) -> None:
        name = running.class_name or running.task
        if name is not self._named:
            self._named = name
            self._mark = begin_mark(encode_name(name)) if name else b""
        if not self._mark:
            write_all(self._descriptor, text)
            return
        *firsts, last = pieces_of(text, PIECE_BYTES - len(self._mark) - len(end))
        for piece in firsts:
            write_all(self._descriptor, self._mark + piece + END)
        write_all(self._descriptor, self._mark + last + end)


def pieces_of(text: bytes, size: int) -> list[bytes]:
    """At least one piece, of that size at most; it ends with a line where one ends within it."""
    pieces = []
    at = 0
    while len(text) - at > size:
        cut = text.rfind(b"\n", at, at + size) + 1 or at + size
        pieces.append(text[at:cut])
        at = cut
    return [*pieces, text[at:]]


def write_all(descriptor: int, text: bytes) -> None:
    """Write it, also where somebody who shares the pipe has made it non-blocking."""
    while text:
        try:
            text = text[os.write(descriptor, text) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


_streams: dict[int, MarkedStream] = {}


def open_stdio() -> None:
    """Have Python write to descriptors 1 and 2 by marked streams from now on."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        marked = _streams[descriptor] = MarkedStream(descriptor, f"<{name}>")
        stream = io.TextIOWrapper(
            marked, encoding="utf-8", errors="backslashreplace", write_through=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def flush_call() -> None:
    """The call has ended: what its thread has begun is written, also where it closed a stream."""
    for marked in _streams.values():
        with contextlib.suppress(OSError):  # user code has closed the descriptor
            marked.end_line(get_ident())


def flush_all() -> None:
    """The process ends: what any thread has begun is written."""
    for descriptor, thread in list(pending):
        with contextlib.suppress(OSError):
            _streams[descriptor].end_line(thread)
