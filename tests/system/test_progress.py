"""Progress, as a person sees it in a terminal and a program in a pipe."""

import os
import pty
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.system

SCRIPT = textwrap.dedent(
    """
    import fabric
    @fabric.task
    def half(x): return 1 // (x % 10)
    with fabric.init(num_cpus=2):
        refs = [half.remote(i) for i in range(200)]
        seen = {ref.id for ref in fabric.progress(refs, description="halving")}
        assert seen == {ref.id for ref in refs}
    print("done")
    """
)

TIMEOUT_S = 40


def test_in_a_pipe_progress_is_plain_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"done\n")
    lines = done.stderr.decode().splitlines()
    assert lines[-1] == "halving: 200/200, 20 failed"
    assert all(line.startswith("halving: ") for line in lines)
    assert b"\x1b" not in done.stderr
    assert b"\r" not in done.stderr


def test_in_a_terminal_progress_is_a_bar() -> None:
    pyte = pytest.importorskip("pyte")
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as child:
        os.close(theirs)
        said = _read_all(ours)
    stream.feed(said)
    assert child.returncode == 0
    assert b"\x1b[" in said
    shown = [line.rstrip() for line in screen.display if line.strip()]
    assert len(shown) == 2, shown
    assert shown[0].startswith("halving ")
    assert "\u2501" in shown[0]
    assert "200/200 20 failed" in shown[0]
    assert shown[1] == "done"
    assert not screen.cursor.hidden


def _read_all(terminal: int) -> bytes:
    """What is written into the terminal until its last user has closed it."""
    pieces = []
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                piece = stream.read(65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not piece:
                break
            pieces.append(piece)
    return b"".join(pieces)
