"""Ctrl-C at any instant, in a terminal: the program ends soon, by SIGINT, and leaves nothing."""

import random
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

import fabric
from tests.strikes import strike_waits
from tests.terminal import Terminal

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
SOON_S = 2.0
STRIKES = 200

PROGRAM = textwrap.dedent(
    """
    print("began", flush=True)
    import time
    import fabric

    @fabric.task
    def rest(seconds):
        time.sleep(seconds)

    @fabric.actor
    class Sleeper:
        def rest(self, seconds):
            time.sleep(seconds)

    with fabric.init(num_cpus=2):
        fabric.get([rest.remote(0) for _ in range(100)])
        print("works", flush=True)
        sleeper = Sleeper.remote()
        fabric.get([*(rest.remote(60) for _ in range(1000)), sleeper.rest.remote(60)])
    """
)


def end_of(terminal: Terminal) -> tuple[int, float]:
    """How a program ended that Ctrl-C was pressed on just now, and after how long."""
    pressed = time.monotonic()
    status = terminal.wait()
    return status, time.monotonic() - pressed


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


@pytest.mark.parametrize("seed", range(10))
def test_ctrl_c_while_it_imports_or_starts_ends_it(program: list[str], seed: int) -> None:
    with Terminal(program, ROOT) as terminal:
        terminal.read_until("began")
        terminal.read_for(random.Random(seed).uniform(0, 0.45))
        terminal.press_ctrl_c()
        status, seconds = end_of(terminal)
    assert status in (-signal.SIGINT, 130), terminal.output
    assert seconds < SOON_S


@pytest.mark.parametrize("seed", range(4))
def test_ctrl_c_while_it_waits_ends_it_and_its_tasks(program: list[str], seed: int) -> None:
    with Terminal(program, ROOT) as terminal:
        terminal.read_until("works")
        terminal.read_for(random.Random(seed).uniform(0, 0.3))
        terminal.press_ctrl_c()
        status, seconds = end_of(terminal)
    assert status in (-signal.SIGINT, 130), terminal.output
    assert seconds < SOON_S
    shown = terminal.output
    assert shown.count("KeyboardInterrupt") == 1, shown  # the driver's own, nothing of the tasks'


def test_a_second_ctrl_c_ends_it_at_once(program: list[str]) -> None:
    with Terminal(program, ROOT) as terminal:
        terminal.read_until("works")
        terminal.press_ctrl_c()
        terminal.read_for(0.02)
        terminal.press_ctrl_c()
        status, seconds = end_of(terminal)
    assert status in (-signal.SIGINT, 130), terminal.output
    assert seconds < SOON_S


@pytest.mark.parametrize("seed", range(2))
def test_ctrl_c_ends_the_census(seed: int) -> None:
    with Terminal([sys.executable, "examples/census.py"], ROOT) as terminal:
        terminal.read_for(random.Random(seed).uniform(0.5, 2.5))
        terminal.press_ctrl_c()
        status, seconds = end_of(terminal)
    assert status in (-signal.SIGINT, 130), terminal.output
    assert seconds < SOON_S


def test_waits_go_on_for_ever_however_often_they_are_interrupted() -> None:
    # the runner's own handler, for its time limits, would keep the main thread from the loop
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with fabric.init(num_cpus=2):
            struck = strike_waits(STRIKES, seed=46)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck == STRIKES
