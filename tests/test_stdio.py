"""A worker's Python streams: marks and whole lines, in pieces that nobody can cut."""

import os
import threading
from collections.abc import Iterator

import pytest

from fabric.context import running
from fabric.runtime import stdio
from fabric.runtime.marks import END, END_OF_LINE, Splitter, begin_mark
from fabric.runtime.stdio import PIECE_BYTES, MarkedStream, pieces_of

F, G = begin_mark(b"f"), begin_mark(b"g")


class Pipe:
    """A marked stream, and what comes out at the other end."""

    def __init__(self) -> None:
        self.end, self.descriptor = os.pipe()
        self.stream = MarkedStream(self.descriptor, "<test>")

    def said(self) -> bytes:
        """What has been written."""
        os.set_blocking(self.end, False)
        try:
            return os.read(self.end, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self.end)
        os.close(self.descriptor)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    monkeypatch.setattr(running, "task", "f")
    pipe = Pipe()
    yield pipe
    stdio.pending.clear()
    pipe.close()


def test_a_line_leaves_when_it_is_whole_and_says_whose_it_is(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [pipe.stream.write(text) for text in (b"one", b" line", b"\nand")] == [3, 5, 4]
    assert pipe.said() == F + b"one line\n" + END
    monkeypatch.setattr(running, "task", "g")
    pipe.stream.write(b" more\n")
    assert pipe.said() == G + b"and more\n" + END


def test_an_actors_lines_have_the_name_of_its_class(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "class_name", "Counter")
    pipe.stream.write(b"one\n")
    assert pipe.said() == begin_mark(b"Counter") + b"one\n" + END


def test_where_no_task_runs_nothing_is_marked(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "task", "")
    pipe.stream.write(b"one\n")
    assert pipe.said() == b"one\n"


def test_a_flush_says_what_is_begun_and_the_end_of_the_call_ends_the_line(pipe: Pipe) -> None:
    pipe.stream.write(b"be")
    pipe.stream.flush()
    assert pipe.said() == F + b"be" + END
    pipe.stream.flush()
    assert pipe.said() == b""
    pipe.stream.write(b"gun")
    pipe.stream.end_line(threading.get_ident())
    assert pipe.said() == F + b"gun" + END_OF_LINE
    assert not stdio.pending


def test_a_long_text_is_cut_between_lines_where_there_are_any() -> None:
    assert pieces_of(b"", 4) == [b""]
    assert pieces_of(b"a\nbc\nd\n", 5) == [b"a\nbc\n", b"d\n"]
    assert pieces_of(b"abcdefg\n", 5) == [b"abcde", b"fg\n"]


def test_no_line_of_a_thread_is_cut_by_another_threads(pipe: Pipe) -> None:
    lines_max, line = 400, b"x" * 100

    def talk(number: int) -> None:
        for at in range(lines_max):
            pipe.stream.write(b"%d %d " % (number, at))
            pipe.stream.write(line)
            pipe.stream.write(b"\n")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    splitter, found = Splitter(), []
    while len(found) < 3 * lines_max:
        _, blocks = splitter.feed(os.read(pipe.end, PIECE_BYTES), str)
        found += [one for _, text in blocks for one in text.split(b"\n")[:-1]]
    for thread in threads:
        thread.join()
    for number in range(3):
        mine = [one for one in found if one.startswith(b"%d " % number)]
        assert mine == [b"%d %d " % (number, at) + line for at in range(lines_max)]


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.descriptor, False)
    text = b"".join(b"%d\n" % number for number in range(30_000))
    writer = threading.Thread(target=pipe.stream.write, args=(text,))
    writer.start()
    splitter, plain = Splitter(), b""
    while len(plain) < len(text):
        plain += splitter.feed(os.read(pipe.end, PIECE_BYTES), str)[0]
    writer.join()
    assert plain == text
