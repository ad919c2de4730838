"""The closing check and the list of skips catch what they are for: real leftovers and skips."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leaks import MARK, SHARED_MEMORY, Before, stores_of_others

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).with_name("conftest.py")

ORPHAN = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
    os.close(1)
    time.sleep(60)
"""


@pytest.fixture
def before(tmp_path: Path) -> Iterator[Before]:
    """The state of things before this test, under a mark of its own."""
    taken = Before(f"leaks-{os.getpid()}-{tmp_path.name}", tmp_path / "run")
    yield taken
    taken.remove()


def test_nothing_done_leaves_nothing(before: Before) -> None:
    assert before.leftovers(patience_s=0) == []


def test_a_process_that_lost_its_parent_is_found_by_its_mark_and_removed(before: Before) -> None:
    environment = {**os.environ, MARK: before.mark}
    started = subprocess.run(
        [sys.executable, "-c", ORPHAN],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    orphan = int(started.stdout)
    assert [line.split()[1] for line in before.leftovers(patience_s=0.1)] == [str(orphan)]
    before.remove()
    assert before.leftovers() == []


def test_a_thread_of_fabric_is_found(before: Before) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="fabric-loop")
    thread.start()
    try:
        assert before.leftovers(patience_s=0.1) == ["thread fabric-loop"]
    finally:
        end.set()
        thread.join()
    assert before.leftovers() == []


def test_an_open_descriptor_is_found_with_what_it_is(before: Before, tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as file:
        [line] = before.leftovers(patience_s=0.1)
        assert line == f"descriptor {file.fileno()}: {tmp_path / 'journal'}"
    assert before.leftovers() == []


def test_shared_memory_is_found_and_removed(before: Before) -> None:
    store = SHARED_MEMORY / f"fb-{before.mark}"
    store.mkdir()
    (store / "o-1").touch()
    assert f"shared memory {store}" in before.leftovers(patience_s=0.1)
    before.remove()
    assert not store.exists()


def test_a_store_that_another_fabric_uses_is_not_ours(before: Before) -> None:
    used, beside = (SHARED_MEMORY / f"fb-others{os.getpid()}-{serial}" for serial in (1, 2))
    used.mkdir()
    beside.mkdir()
    program = f"file = open({str(used / 'lock')!r}, 'w'); print(flush=True); input(); file.close()"
    command = [sys.executable, "-c", program]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            theirs = stores_of_others(set())
            other.communicate(b"\n")
        assert used.name in theirs
        assert beside.name not in theirs
        assert f"shared memory {beside}" in before.leftovers(patience_s=0.1)
    finally:
        shutil.rmtree(used)
        shutil.rmtree(beside)


def test_a_runtime_directory_is_found(before: Before) -> None:
    (before.runtime_root / "fb-1").mkdir(parents=True)
    assert before.leftovers(patience_s=0.1) == [f"runtime entry {before.runtime_root / 'fb-1'}"]


# -- through pytest, with the conftest of this folder


@pytest.fixture
def house(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty project under the same conftest."""
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini("[pytest]\nmarkers = system\n")
    pytester.makefile(".txt", allowed_skips="test_skips.py::* | no strace | it needs root\n")
    return pytester


def test_a_system_test_that_leaves_a_process_fails(house: pytest.Pytester) -> None:
    house.makepyfile(
        """
        import subprocess, sys, pytest

        @pytest.mark.system
        def test_leaves_one():
            program = [sys.executable, "-c", "import time; time.sleep(60)"]
            test_leaves_one.kept = subprocess.Popen(program)

        @pytest.mark.system
        def test_leaves_none():
            test_leaves_one.kept.wait()
        """
    )
    outcome = house.runpytest_inprocess("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=2, errors=1)
    outcome.stdout.fnmatch_lines(["*the test left behind:*", "process *"])


def test_a_skip_fails_the_run_unless_the_list_allows_it(house: pytest.Pytester) -> None:
    house.makepyfile(
        test_skips="""
        import pytest

        def test_allowed():
            pytest.skip("there is no strace here")

        def test_not_allowed():
            pytest.skip("I do not feel like it")

        @pytest.mark.xfail
        def test_expected_to_fail():
            assert False
        """
    )
    lenient = house.runpytest_inprocess("-p", "no:cacheprovider")
    assert lenient.ret == pytest.ExitCode.OK
    strict = house.runpytest_inprocess("-p", "no:cacheprovider", "--strict-skips")
    assert strict.ret == pytest.ExitCode.TESTS_FAILED
    strict.stdout.fnmatch_lines(["*skipped without leave*", "test_skips.py::test_not_allowed: *"])
    strict.stdout.no_fnmatch_line("test_skips.py::test_allowed: *")
    allowed = house.runpytest_inprocess(
        "-p", "no:cacheprovider", "--strict-skips", "-k", "not not_"
    )
    assert allowed.ret == pytest.ExitCode.OK
