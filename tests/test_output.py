"""Which driver sees which lines: the node's account, and how a driver prints them."""

import io
import sys
from typing import Any

import pytest

from fabric.config import Limits
from fabric.core.effects import DrainOutput, Effect, Send
from fabric.core.events import OutputDrained, WorkerWrote
from fabric.core.node.node import NodeMachine
from fabric.core.node.output import Viewer
from fabric.ids import Address, JobId
from fabric.protocol.messages import (
    FlushOutput,
    OutputShown,
    OutputWritten,
    RegisterClient,
    UnregisterClient,
)
from fabric.protocol.values import JobSpec
from fabric.runtime import terminal
from tests.core_words import ME, NODE, OTHER, W1, W2, c, hear, me_of, new_node, tell

LOGS = "/run/logs"


# -- how many


def lines(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


def viewer(**limits: Any) -> Viewer:
    return Viewer(Limits(**{"output_lines_per_s_max": 4, **limits}))


def test_a_second_has_so_many_lines_and_the_next_one_as_many() -> None:
    one = viewer()
    assert one.take(lines(1, 3), 10.0) == lines(1, 3)
    assert one.take(lines(4, 6), 10.5) == lines(4, 4)
    assert one.take(lines(7, 7), 10.9) == b""
    assert (one.omitted, one.due()) == (3, 11.0)
    assert one.take(lines(8, 20), 11.0) == lines(8, 11)
    assert one.omitted == 12


def test_a_second_has_so_many_bytes_and_lines_are_not_cut() -> None:
    one = viewer(output_bytes_per_s_max=6)
    assert one.take(b"abc\ndef\n", 0.0) == b"abc\n"
    assert one.take(b"g\n", 0.5) == b""  # it would fit, but came after what did not
    assert one.omitted == 2


def test_who_prints_too_slowly_is_sent_nothing_and_told_when_it_has_printed() -> None:
    one = viewer(output_bytes_max=8)
    assert one.take(b"abcdefg\n", 0.0) == b"abcdefg\n"
    assert one.take(b"h\n", 2.0) == b""
    assert one.due() is None
    one.unshown_bytes = 0
    assert one.due() == 3.0
    assert one.notice() == OutputWritten(0, "", False, b"", 1)
    assert one.due() is None


# -- who


def running_node(**limits: Any) -> NodeMachine:
    """`ME` and `OTHER` have a worker each; only `ME` wants output."""
    node = new_node(cpus=2, workers=2, **limits)
    for client, worker in ((ME, W1), (OTHER, W2)):
        job = JobSpec(JobId(me_of(client)), (), "", "")
        hear(node, client, RegisterClient(9, True, job, "", client == ME))
        node.staff.workers[me_of(worker)].job = job.job
    return node


def wrote(worker: Address, text: bytes) -> WorkerWrote:
    return WorkerWrote(me_of(worker), False, "f", text)


def written(text: bytes, omitted: int = 0, client: Address = ME) -> Effect:
    return Send(client, OutputWritten(1, "f", False, text, omitted))


def test_a_driver_sees_what_its_own_workers_print_if_it_wants_to() -> None:
    node = running_node()
    assert tell(node, wrote(W1, b"mine\n")) == [written(b"mine\n")]
    assert tell(node, wrote(W2, b"not wanted\n")) == []
    node.staff.workers[me_of(W1)].job = None
    assert tell(node, wrote(W1, b"nobody's\n")) == []


def test_what_was_left_out_is_told_before_the_next_line_or_when_the_second_is_over() -> None:
    node = running_node(output_lines_per_s_max=2)
    tell(node, wrote(W1, lines(1, 5)), now=5.0)
    assert tell(node, wrote(W1, b"late\n"), now=6.0) == [written(b"late\n", omitted=3)]
    tell(node, wrote(W1, lines(1, 5)), now=6.5)
    assert node.output.dues() == [7.0]
    assert node.output.tick(6.9) == []
    assert node.output.tick(7.0) == [Send(ME, OutputWritten(0, "", False, b"", 4))]
    assert node.output.dues() == []


def test_what_is_printed_makes_room() -> None:
    node = running_node(output_bytes_max=4)
    assert tell(node, wrote(W1, b"abc\n"), now=1.0) == [written(b"abc\n")]
    assert tell(node, wrote(W1, b"def\n"), now=3.0) == []
    hear(node, ME, OutputShown(4))
    assert tell(node, wrote(W1, b"ghi\n"), now=5.0) == [written(b"ghi\n", omitted=1)]


def test_before_a_driver_leaves_its_workers_pipes_are_emptied() -> None:
    node = running_node(output_lines_per_s_max=1)
    flush = FlushOutput(c(7))
    assert hear(node, ME, flush) == [DrainOutput(c(7), (me_of(W1),))]
    tell(node, wrote(W1, lines(1, 3)))
    assert tell(node, OutputDrained(c(7))) == [
        Send(ME, OutputWritten(0, "", False, b"", 2)),
        Send(ME, flush),
    ]


def test_a_driver_that_is_gone_has_no_account() -> None:
    node = running_node()
    tell(node, wrote(W1, b"x\n"))
    hear(node, ME, UnregisterClient())
    assert node.output.viewers == {}
    assert tell(node, OutputDrained(c(7))) == []


# -- how


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain ünïcode 🙂", "plain ünïcode 🙂"),
        ("a\ttab", "a\ttab"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("nul\x00 c1\x9b", "nul\\x00 c1\\x9b"),
        ("  1%\r 50%\r100%", "100%"),
        ("dos\r", "dos"),
    ],
)
def test_a_line_cannot_command_the_terminal_but_may_be_coloured(line: str, shown: str) -> None:
    assert terminal.printable(line) == shown


def test_each_line_says_who_where_and_which_process() -> None:
    message = OutputWritten(42, "f", False, b"one\n\n\xff\n")
    assert terminal.prefixed(NODE, message) == (
        "(f n:6e6f6465/42) one\n(f n:6e6f6465/42) \n(f n:6e6f6465/42) \\xff\n"
    )
    nameless = OutputWritten(42, "", False, b"x\n")
    assert terminal.prefixed(NODE, nameless) == "(worker n:6e6f6465/42) x\n"


def test_a_notice_says_how_many_lines_and_where_they_are() -> None:
    assert terminal.notice(NODE, 1, "") == (
        "(fabric) 1 line of output left out here; everything is in the logs of n:6e6f6465\n"
    )
    assert terminal.notice(NODE, 12345, LOGS) == (
        "(fabric) 12,345 lines of output left out here; everything is in /run/logs\n"
    )


def test_a_stream_that_is_narrow_closed_or_missing_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    terminal.write("ü\n", is_error=False)
    assert buffer.getvalue() == b"\\xfc\n"
    sys.stdout.close()
    terminal.write("x\n", is_error=False)
    monkeypatch.setattr(sys, "stdout", None)
    terminal.write("x\n", is_error=False)


def test_pieces_are_whole_lines() -> None:
    assert terminal.pieces_of("", 4) == []
    assert terminal.pieces_of("a\nb\nlonger\nc\n", 4) == ["a\nb\n", "longer\n", "c\n"]
