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


def interrupted(command: list[str], text: str, delay_s: float, again: bool = False) -> str:
    """What a program showed that Ctrl-C was pressed on, so long after that text; it ended soon."""
    with Terminal(command, ROOT) as terminal:
        terminal.read_until(text)
        terminal.read_for(delay_s)
        terminal.press_ctrl_c()
        pressed = time.monotonic()
        if again:
            terminal.read_for(0.02)
            terminal.press_ctrl_c()
        status = terminal.wait()
    assert status in (-signal.SIGINT, 130), terminal.output
    assert time.monotonic() - pressed < SOON_S
    return terminal.output


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


@pytest.mark.parametrize("seed", range(10))
def test_ctrl_c_while_it_imports_or_starts_ends_it(program: list[str], seed: int) -> None:
    interrupted(program, "began", random.Random(seed).uniform(0, 0.45))


@pytest.mark.parametrize("seed", range(4))
def test_ctrl_c_while_it_waits_ends_it_and_its_tasks(program: list[str], seed: int) -> None:
    shown = interrupted(program, "works", random.Random(seed).uniform(0, 0.3))
    assert shown.count("KeyboardInterrupt") == 1, shown  # the driver's own, nothing of the tasks'


def test_a_second_ctrl_c_ends_it_at_once(program: list[str]) -> None:
    interrupted(program, "works", 0.0, again=True)


@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_ends_make_demo(seed: int) -> None:
    # this environment is set up already, wherever it is
    command = ["make", "-o", ".venv/.installed", f"RUN={sys.executable}", "demo"]
    interrupted(command, "census.py", random.Random(seed).uniform(0.1, 2.5))


def test_waits_go_on_for_ever_however_often_they_are_interrupted() -> None:
    # the runner's own handler, for its time limits, would keep the main thread from the loop
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with fabric.init(num_cpus=2):
            struck = strike_waits(STRIKES, seed=46)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck == STRIKES
