"""Real zygotes and real workers, driven by the scenarios of `tests.fake_node`."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fabric.runtime.directories import sweep
from tests.fake_node import is_running

pytestmark = pytest.mark.system

PLAY = "from tests.fake_node import main; main()"
GONE_S = 1.0
"""Promised: when a node is killed, its zygote and workers are gone after this long."""


def play(scenario: str) -> Any:
    """What a fake node saw in that scenario."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAY, scenario],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_worker_is_a_child_of_its_node_with_nothing_inherited_but_what_it_needs() -> None:
    seen = play("looking_around")
    first, second = seen["said"]
    assert first.pop("chance") != second.pop("chance")
    assert first.pop("pid") == first.pop("group")
    assert first == {
        "parent": seen["node"],
        "session": seen["session"],
        "name": "fabric:worker",
        "ignores_interrupts": True,
        "blocked": 0,
        "caught": [],
        "descriptors": [0, 1, 2],
        "greeting": "hello",
        "has_numpy": False,
        "node": "n:0000000000000000",
        "beat_s": 0.1,
    }
    assert seen["zygote_name"] == "fabric:zygote"
    assert seen["exit_codes"] == [0, 0]


def test_what_a_worker_and_its_children_print_is_in_its_logs_line_by_line() -> None:
    seen = play("looking_around")
    assert seen["logs"] == ["to the output\nfrom a child\n", "to the errors\n"]
    assert seen["log_mode"] == "0o600"


def test_every_way_to_end_is_told_with_status_signal_and_last_lines() -> None:
    ends = play("ending")
    assert ends["nothing"] == [0, None, ""]
    assert ends["exit_with_3"] == [3, None, ""]
    assert ends["exit_with_words"] == [1, None, "no more"]
    assert ends["exit_in_order"] == [0, None, "last words"]
    code, number, tail = ends["fail"]
    lines = tail.splitlines()
    assert (code, number, len(lines)) == (1, None, 20)
    assert lines[-1] == "LookupError: nothing there"


def test_a_crash_of_the_interpreter_is_shown_from_its_innermost_frame() -> None:
    code, number, tail = play("ending")["crash"]
    assert (code, number) == (None, signal.SIGSEGV)
    assert tail.startswith("Fatal Python error: Segmentation fault")
    assert "in crash" in tail


def test_a_killed_workers_word_is_read_and_its_slot_is_empty_for_the_next() -> None:
    assert play("killing") == {
        "killed": [
            None,
            signal.SIGKILL,
            [
                "Progress(caller=b'caller-1', lease=5, number=6, finished=True)",
                "Progress(caller=b'caller-2', lease=6, number=12, finished=False)",
            ],
        ],
        "after": [signal.SIGTERM, []],
        "unborn": signal.SIGKILL,
        "slots": False,
    }


def test_what_a_worker_left_running_is_killed_when_it_ends_and_nothing_else_is() -> None:
    assert play("leaving_children") == {
        "before": [True] * 6,
        "between": [False] * 3 + [True] * 3 + [True],
        "after": [False] * 6 + [True],
        "children": "",
    }


def test_a_killed_zygote_is_replaced_and_the_workers_it_owed_are_started() -> None:
    seen = play("losing_the_zygote")
    assert seen["ends"] == [0] * 6
    assert seen["zygotes"] == 3
    assert seen["is_old_alive"]
    assert seen["said"]["parent"] == seen["node"]
    assert seen["said"]["descriptors"] == [0, 1, 2]
    assert seen["children"] == ""


def test_a_zygote_that_dies_at_once_fails_the_workers_instead_of_being_started_for_ever() -> None:
    ends = play("losing_a_zygote_that_cannot_live")
    assert ends == [[None, None, "the zygote died before it could fork; its errors say why"]] * 2


def test_a_worker_that_cannot_be_forked_is_told_as_ended_and_the_next_one_can() -> None:
    refused, later, too_large = play("failing_to_fork")
    assert refused[:2] == [None, None]
    assert "Too many open files" in refused[2]
    assert later == [0, None, ""]
    assert too_large[:2] == [None, None]
    assert "its environment is too large" in too_large[2]


def test_a_newborn_is_never_taken_for_what_a_dead_worker_left() -> None:
    assert play("being_born_while_others_die") == [[0, None, ""]]


def test_a_node_with_threads_may_not_fork_its_zygote() -> None:
    assert play("forking_with_threads") == "this process has 2 threads and must not fork"


def test_workers_that_come_and_go_leave_no_descriptor_in_their_node() -> None:
    assert play("descriptors_over_time") == {"grown": 0, "left": 0}


def test_at_the_end_workers_may_end_by_themselves_before_they_are_killed() -> None:
    assert play("ending_in_time") == [[0, None], [None, signal.SIGKILL]]


def test_a_killed_node_takes_its_zygote_and_its_workers_with_it() -> None:
    node = subprocess.Popen(
        [sys.executable, "-c", PLAY, "waiting_for_death"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    with node:
        assert node.stdout is not None
        seen = json.loads(node.stdout.readline())
        assert all(is_running(pid) for pid in seen["pids"])
        node.kill()
    deadline = time.monotonic() + GONE_S
    while any(is_running(pid) for pid in seen["pids"]) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not [pid for pid in seen["pids"] if is_running(pid)]
    assert seen["directory"] in sweep()
