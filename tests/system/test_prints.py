"""What workers print, seen where their driver runs: whole, in order, named, bounded."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fabric
from fabric import actor, exceptions, task
from fabric.runtime import client as clients
from tests.commands import PATIENCE_S, ROOT, run_command
from tests.system.looks import WAIT_S

pytestmark = pytest.mark.system

LINE = re.compile(r"\((?P<name>\S+) n:[0-9a-f]{8}/(?P<pid>\d+)\) (?P<text>.*)")
LEFT_OUT = re.compile(r"\(fabric\) ([\d,]+) lines? of output left out here; .* (\S+)")

HELLO = """
import os, subprocess, sys
import fabric

@fabric.task
def hello():
    print("hello")
    sys.stderr.write("beware\\n")
    return os.getpid()

@fabric.task
def raw():
    subprocess.run(["echo", "from a child"])
    os.write(2, b"from C")
    print("unfinished", end="")
    return os.getpid()

print(fabric.get(hello.remote()), fabric.get(raw.remote()))
"""

FLOOD_INTO_A_FULL_PIPE = """
import sys, time
import fabric

@fabric.task
def flood():
    for number in range(20_000):
        print("x" * 100)

@fabric.task
def nothing():
    return "calls go on"

fabric.init(num_cpus=2)
fabric.get(flood.remote())
sys.stderr.write(fabric.get(nothing.remote()))
fabric.shutdown()
sys.stderr.write(", the session ends")
"""

ONE_OF_TWO = """
import sys
import fabric

@fabric.task
def say(text):
    print(text)

fabric.init("auto")
say.remote(sys.argv[1]).get()
print("ready", flush=True)
sys.stdin.readline()
"""


@task
def count(last: int) -> int:
    for number in range(last):
        print(number)
    return os.getpid()


@task
def write(text: bytes, times: int) -> None:
    for _ in range(times):
        os.write(1, text)


@task(max_retries=0)
def die() -> None:
    print("last words")
    print("reason", file=sys.stderr)
    os.kill(os.getpid(), 9)


@actor
class Speaker:
    def say(self, text: str) -> None:
        print(text)


def read(text: str) -> list[tuple[str, str]]:
    """Who said what, of the lines that workers said."""
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    return [(one["name"], one["text"]) for one in found if one]


def logs() -> Path:
    """Where this session's workers' logs are."""
    return Path(clients.current_client().place.runtime_directory, "logs")


def test_a_program_that_prints_and_ends_shows_every_line_where_it_belongs() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HELLO], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ran.returncode == 0, ran.stderr
    result = next(line for line in ran.stdout.splitlines() if line[0] != "(")
    hello, raw = result.split()
    lines = [LINE.fullmatch(one) for one in ran.stdout.splitlines() if one != result]
    assert [(one["name"], one["pid"], one["text"]) for one in lines if one] == [
        ("hello", hello, "hello"),
        ("raw", raw, "from a child"),
        ("raw", raw, "unfinished"),
    ]
    assert read(ran.stderr) == [("hello", "beware"), ("raw", "from C")]


def test_the_lines_of_many_tasks_and_actors_are_complete_and_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fabric.init(num_cpus=2):
        speaker = Speaker.remote()
        refs = [count.remote(100) for _ in range(2)]
        fabric.get([speaker.say.remote(f"line {number}") for number in range(100)], WAIT_S)
        pids = fabric.get(refs, WAIT_S)
    said = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    found = [(one["name"], int(one["pid"]), one["text"]) for one in said if one]
    assert [text for name, _, text in found if name == "Speaker"] == [
        f"line {number}" for number in range(100)
    ]
    for pid, times in Counter(pids).items():
        mine = [int(text) for name, one, text in found if name == "count" and one == pid]
        assert mine == list(range(100)) * times


def test_a_flood_is_counted_in_the_terminal_and_whole_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fabric.init(num_cpus=1):
        count.remote(20_000).get(WAIT_S)
        (log,) = logs().glob("*.out")
        assert log.read_text() == "".join(f"{number}\n" for number in range(20_000))
        directory = str(logs())
    captured = capsys.readouterr()
    shown = [int(text) for _, text in read(captured.out)]
    notices = [LEFT_OUT.fullmatch(line) for line in captured.err.splitlines()]
    left_out = sum(int(one[1].replace(",", "")) for one in notices if one)
    assert {one[2] for one in notices if one} == {directory}
    assert left_out > 0
    assert len(shown) + left_out == 20_000
    assert shown == sorted(set(shown))


def test_any_bytes_in_any_number_harm_nobody_and_the_log_stays_small(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_LOG_BYTES_MAX", "100000")
    with fabric.init(num_cpus=1):
        write.remote(b"\x1b[2J\x00\xff\n", 1).get(WAIT_S)
        write.remote(bytes(range(256)) * 100, 200).get(WAIT_S)
        count.remote(1).get(WAIT_S)
        sizes = {path.suffix: path.stat().st_size for path in logs().iterdir() if path.is_file()}
        assert set(sizes) == {".out", ".1"}
        assert max(sizes.values()) <= 100_000
    shown = capsys.readouterr().out
    assert read(shown)[0] == ("write", "\\x1b[2J\\x00\\xff")
    assert set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)) == set()


def test_what_a_worker_said_before_it_died_arrives_and_is_in_the_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fabric.init(num_cpus=1), pytest.raises(exceptions.WorkerCrashedError, match="reason"):
        die.remote().get(WAIT_S)
    captured = capsys.readouterr()
    assert read(captured.out) == [("die", "last words")]
    assert read(captured.err) == [("die", "reason")]


def test_a_driver_that_does_not_want_to_know_is_told_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fabric.init(num_cpus=1, log_to_driver=False):
        fabric.init()
        count.remote(1).get(WAIT_S)
        assert [log.read_text() for log in logs().glob("*.out")] == ["0\n"]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_terminal_that_takes_nothing_stops_neither_calls_nor_the_end() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD_INTO_A_FULL_PIPE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr is not None  # its output is read by nobody, and stands still
        lines = [line for line in program.stderr if not LEFT_OUT.match(line)]
        assert lines == ["calls go on, the session ends"]
        assert program.wait(PATIENCE_S) == 0


def test_drivers_of_one_cluster_see_their_own_workers_only() -> None:
    run_command("up", "--num-cpus", "2")
    try:
        drivers = [
            subprocess.Popen(
                [sys.executable, "-c", ONE_OF_TWO, f"I am {number}"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        said = [driver.communicate("\n", timeout=PATIENCE_S)[0] for driver in drivers]
    finally:
        run_command("down")
    assert [read(one) for one in said] == [[("say", "I am 0")], [("say", "I am 1")]]
