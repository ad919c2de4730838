"""What a worker wrote about its calls is what its node reads, whenever the worker died."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.ids import Incarnation
from fabric.protocol.values import Progress
from fabric.runtime.words import ENTRIES, ENTRY, NOBODY, SLOT_BYTES, Word, Words, read_progress

A = Incarnation(b"client-a")
B = Incarnation(b"client-b")


@pytest.fixture
def words(tmp_path: Path) -> Iterator[Words]:
    made = Words(str(tmp_path / "words"))
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def word(words: Words) -> Iterator[Word]:
    made = Word(words.path, words.allocate())
    yield made
    made.close()


def test_a_worker_without_calls_has_no_progress(words: Words, word: Word) -> None:
    assert words.progress(0) == ()


def test_a_call_is_running_from_start_to_finish(words: Words, word: Word) -> None:
    word.start(A, 7, 0)
    assert words.progress(0) == (Progress(A, 7, 0, False),)
    word.finish()
    assert words.progress(0) == (Progress(A, 7, 0, True),)
    word.start(A, 7, 1)
    assert words.progress(0) == (Progress(A, 7, 1, False),)


def test_every_caller_of_every_lease_has_an_entry_of_its_own(words: Words, word: Word) -> None:
    for caller, lease, number in ((A, 1, 5), (B, 1, 2), (A, 2, 9), (A, 1, 6)):
        word.start(caller, lease, number)
        word.finish()
    word.start(B, 1, 3)
    assert words.progress(0) == (
        Progress(A, 1, 6, True),
        Progress(B, 1, 3, False),
        Progress(A, 2, 9, True),
    )


def test_a_full_slot_forgets_the_lease_unused_for_longest(words: Words, word: Word) -> None:
    for lease in range(ENTRIES):
        word.start(A, lease, lease)
    word.start(A, 0, 100)  # lease 1 is now the one unused for longest
    word.start(B, ENTRIES, 3)
    found = words.progress(0)
    assert len(found) == ENTRIES
    assert found[:3] == (
        Progress(A, 0, 100, False),
        Progress(B, ENTRIES, 3, False),
        Progress(A, 2, 2, False),
    )


def test_a_full_slot_keeps_the_callers_of_the_lease_that_lasts(words: Words, word: Word) -> None:
    word.start(A, 1, 4)  # an actor's lease: one for all of its callers
    for lease in range(2, ENTRIES + 1):
        word.start(B, lease, 0)
    word.start(B, 1, 8)
    assert words.progress(0)[:2] == (Progress(A, 1, 4, False), Progress(B, 1, 8, False))


def test_a_lease_with_more_callers_than_entries_forgets_its_quietest(
    words: Words, word: Word
) -> None:
    callers = [Incarnation(number.to_bytes(8, "big")) for number in range(1, ENTRIES + 2)]
    for caller in callers:
        word.start(caller, 1, 0)
    assert {each.caller for each in words.progress(0)} == set(callers[1:])


def test_an_entry_that_was_being_written_is_nobodys() -> None:
    torn = ENTRY.pack(A, 1, 3) + ENTRY.pack(NOBODY, 2, 8) + ENTRY.pack(B, 2, 5)
    slot = torn.ljust(SLOT_BYTES, b"\0")
    assert read_progress(slot) == (Progress(A, 1, 1, True), Progress(B, 2, 2, True))


def test_slots_are_apart_and_a_released_one_comes_back_empty(words: Words) -> None:
    first, second = words.allocate(), words.allocate()
    made = [Word(words.path, slot) for slot in (first, second)]
    made[0].start(A, 1, 1)
    made[1].start(B, 2, 2)
    for each in made:
        each.close()
    assert words.progress(first) == (Progress(A, 1, 1, False),)
    words.release(first)
    assert words.allocate() == first
    assert words.progress(first) == ()
    assert words.progress(second) == (Progress(B, 2, 2, False),)


def test_what_a_killed_process_wrote_last_is_read(words: Words) -> None:
    slot = words.allocate()
    pid = os.fork()
    if pid == 0:
        word = Word(words.path, slot)
        for number in range(1000):
            word.start(A, 3, number)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert words.progress(slot) == (Progress(A, 3, 999, False),)


def test_the_file_is_for_its_user_alone_and_never_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    (tmp_path / "words").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        Words(str(tmp_path / "words"))
    made = Words(str(tmp_path / "others"))
    assert (tmp_path / "others").stat().st_mode & 0o777 == 0o600
    made.close()
