"""Segments: pins, generations, locks and full file systems, with real files."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fabric.core.sizes import size_class
from fabric.runtime import segments
from fabric.runtime.segments import (
    SegmentFiles,
    SegmentMoved,
    SegmentWriter,
    open_segment,
    segment_path,
    write_segment,
)
from fabric.serialization import dump, load

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LARGE = 3 * 1024 * 1024


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SegmentFiles]:
    made = SegmentFiles(str(tmp_path))
    yield made
    made.close()
    assert os.listdir(tmp_path) == []


def put(files: SegmentFiles, name: str, value: object) -> str:
    """A new segment with that value; its path."""
    dumped = dump(value)
    files.create(name, size_class(dumped.segment_bytes()))
    path = segment_path(files.directory, name)
    write_segment(path, 1, dumped, False)
    return path


def mappings_of(path: str) -> list[tuple[int, int]]:
    """Where this process has that file mapped."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(path):
            start, end = line.split()[0].split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def address_of(array: Any) -> int:
    place: int = array.ctypes.data
    return place


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- reading


@pytest.mark.parametrize(
    "value",
    [7, "text", [], {"a": [1, 2]}, b"x" * 100_000, list(range(100_000))],
    ids=lambda value: repr(value)[:12],
)
def test_a_value_comes_back_from_its_segment(files: SegmentFiles, value: object) -> None:
    assert open_segment(put(files, "p-1", value), 1) == value


def test_arrays_lie_in_the_segment_aligned_and_read_only(files: SegmentFiles) -> None:
    source = {"large": np.arange(100_000), "small": np.arange(3), "text": "x"}
    path = put(files, "p-1", source)
    value = open_segment(path, 1)
    [(start, end)] = mappings_of(path)
    for name in ("large", "small"):
        array = value[name]
        assert (array == source[name]).all()
        assert not array.flags.writeable
        assert address_of(array) % 64 == 0
        assert start <= address_of(array) <= end - array.nbytes


def test_tables_lie_in_the_segment(files: SegmentFiles) -> None:
    table = pa.table({"n": list(range(10_000))})
    path = put(files, "p-1", table)
    value = open_segment(path, 1)
    [(start, end)] = mappings_of(path)
    assert value.equals(table)
    assert start <= value["n"].chunk(0).buffers()[1].address < end


def test_two_readers_in_one_process_both_get_the_value(files: SegmentFiles) -> None:
    path = put(files, "p-1", np.arange(1000))
    first, second = open_segment(path, 1), open_segment(path, 1)
    del first
    assert second.sum() == 499_500
    assert not files.try_recycle("p-1", 2)


def test_a_mapped_value_holds_no_descriptor(files: SegmentFiles) -> None:
    path = put(files, "p-1", np.arange(1000))
    open_segment(path, 1)  # whatever is imported first has happened now
    before = descriptors()
    values = [open_segment(path, 1) for _ in range(50)]
    assert descriptors() == before
    assert len(values) == 50


# -- pins


def test_a_segment_is_pinned_while_any_view_of_it_lives(files: SegmentFiles) -> None:
    path = put(files, "p-1", {"array": np.arange(1000)})
    value = open_segment(path, 1)
    assert not files.try_recycle("p-1", 2)
    part = value["array"][10:20].reshape(2, 5)[1]
    del value
    assert not files.try_recycle("p-1", 2)
    assert part.tolist() == [15, 16, 17, 18, 19]
    view = memoryview(part)
    del part
    assert not files.try_recycle("p-1", 2)
    assert view[0] == 15
    del view
    assert files.try_recycle("p-1", 2)
    assert mappings_of(path) == []


def test_a_value_without_buffers_pins_nothing(files: SegmentFiles) -> None:
    path = put(files, "p-1", list(range(1000)))
    value = open_segment(path, 1)
    assert files.try_recycle("p-1", 2)
    assert len(value) == 1000


def test_a_reader_keeps_its_value_when_the_file_is_removed(files: SegmentFiles) -> None:
    value = open_segment(put(files, "p-1", np.arange(1000)), 1)
    files.unlink("p-1")
    assert value.sum() == 499_500


def test_the_death_of_a_reader_ends_its_pin(files: SegmentFiles) -> None:
    path = put(files, "p-1", np.arange(1000))
    script = (
        "import sys\n"
        "from fabric.runtime.segments import open_segment\n"
        "value = open_segment(sys.argv[1], 1)\n"
        "print('pinned', flush=True)\n"
        "sys.stdin.read()\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script, path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"pinned\n"
        assert not files.try_recycle("p-1", 2)
        reader.send_signal(signal.SIGKILL)
        reader.wait(timeout=10)
    assert files.try_recycle("p-1", 2)


# -- generations


def test_a_name_of_another_generation_is_refused(files: SegmentFiles) -> None:
    path = put(files, "p-1", "old")
    assert files.try_recycle("p-1", 2)
    for generation in (1, 2):  # gone, and not yet there
        with pytest.raises(SegmentMoved):
            open_segment(path, generation)
    write_segment(path, 2, dump("new"), True)
    assert open_segment(path, 2) == "new"
    with pytest.raises(SegmentMoved):
        open_segment(path, 1)


def test_a_segment_that_is_gone_is_refused(files: SegmentFiles) -> None:
    path = put(files, "p-1", "value")
    files.unlink("p-1")
    with pytest.raises(SegmentMoved):
        open_segment(path, 1)
    with pytest.raises(SegmentMoved):
        write_segment(path, 1, dump("value"), False)


def test_a_late_writer_does_not_touch_the_next_value(files: SegmentFiles) -> None:
    path = put(files, "p-1", "old")
    files.try_recycle("p-1", 2)
    write_segment(path, 2, dump("new"), True)
    with pytest.raises(SegmentMoved):
        write_segment(path, 1, dump("late"), False)
    assert open_segment(path, 2) == "new"


def read_in_a_race(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch, read: Callable[[str, int], object]
) -> object:
    """Read generation 1 of a segment that holds the next value by the time it is pinned."""
    path = put(files, "p-1", "old")
    real_flock = fcntl.flock

    def flock(file: Any, operation: int) -> None:
        monkeypatch.undo()
        assert files.try_recycle("p-1", 2)
        write_segment(path, 2, dump("new"), True)
        real_flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    return read(path, 1)


def open_checked_before_the_pin(path: str, generation: int) -> object:
    """What a reader must not be: it looks at the generation first and pins afterwards."""
    with open(path, "rb") as file:
        assert segments.HEADER.unpack(file.read(segments.HEADER.size))[1] == generation
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        pickled, buffers = segments.parts(
            segments.map_shared(file.fileno(), os.fstat(file.fileno()).st_size)
        )
    return load(pickled, buffers)


def test_a_value_that_goes_between_the_look_and_the_pin_is_refused(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SegmentMoved):
        read_in_a_race(files, monkeypatch, open_segment)


def test_the_race_finds_a_generation_that_is_not_checked_after_the_pin(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_in_a_race(files, monkeypatch, open_checked_before_the_pin) == "new"


def test_while_a_writer_writes_nobody_reads_or_recycles(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.create("p-1", 4096)
    path = segment_path(files.directory, "p-1")
    seen: list[object] = []

    def look(*args: Any) -> None:
        seen.append(files.try_recycle("p-1", 2))
        with pytest.raises(SegmentMoved):
            open_segment(path, 1)
        real_fill(*args)

    real_fill = segments._fill
    monkeypatch.setattr(segments, "_fill", look)
    write_segment(path, 1, dump("value"), False)
    assert seen == [False]
    assert open_segment(path, 1) == "value"


# -- writing


@pytest.mark.parametrize("kept_max", [0, 4])
def test_warm_pages_are_written_through_a_mapping_and_the_others_too(
    files: SegmentFiles, kept_max: int
) -> None:
    path = segment_path(files.directory, "p-1")
    files.create("p-1", size_class(2 * LARGE))
    writer = SegmentWriter(kept_max)
    generation = 1
    for nbytes in (LARGE, LARGE, LARGE + 12_345, 2 * LARGE - 100_000, 10, LARGE):
        source = np.random.default_rng(generation).integers(0, 255, nbytes, dtype=np.uint8)
        value = {"large": source, "small": source[:99], "odd": source[5::7].tolist()}
        value["odd"] = value["odd"][:1000]
        writer.write(path, generation, dump(value), generation > 1)
        loaded = open_segment(path, generation)
        assert (loaded["large"] == source).all()
        assert (loaded["small"] == source[:99]).all()
        assert loaded["odd"] == value["odd"]
        del loaded
        generation += 1
        assert files.try_recycle("p-1", generation)
    assert (len(mappings_of(path)) == 1) == (kept_max > 0)
    writer.close()
    assert mappings_of(path) == []


def test_a_writer_lets_go_of_segments_that_were_removed(files: SegmentFiles) -> None:
    paths = [put(files, f"p-{index}", np.zeros(LARGE, np.uint8)) for index in range(3)]
    writer = SegmentWriter(kept_max=2)
    for index, path in enumerate(paths):
        assert files.try_recycle(f"p-{index}", 2)
        writer.write(path, 2, dump(np.ones(LARGE, np.uint8)), True)
    assert [len(mappings_of(path)) for path in paths] == [0, 1, 1]
    files.unlink("p-1")
    with pytest.raises(SegmentMoved):
        writer.write(paths[1], 2, dump(b"late"), True)
    files.unlink("p-2")
    before = descriptors()
    writer.trim()
    assert descriptors() == before - 2  # the file, and the one that its mapping holds


def test_values_of_many_buffers_are_written_in_few_calls(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = os.pwritev

    def counted(file: int, pieces: list[memoryview], at: int) -> int:
        calls.append(len(pieces))
        return real(file, pieces, at)

    monkeypatch.setattr(os, "pwritev", counted)
    source = [np.full(index % 50, index) for index in range(2000)]
    value = open_segment(put(files, "p-1", source), 1)
    assert all((a == b).all() for a, b in zip(value, source, strict=True))
    assert len(calls) < 15


@pytest.mark.parametrize("most", [1, 7, 64, 1000])
def test_a_write_that_takes_less_than_it_was_given_goes_on(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real = os.pwritev

    def short(file: int, pieces: list[memoryview], at: int) -> int:
        return real(file, [memoryview(b"".join(pieces))[:most]], at)

    monkeypatch.setattr(os, "pwritev", short)
    source = [np.arange(index, dtype=np.uint8) for index in range(40)]
    value = open_segment(put(files, "p-1", source), 1)
    assert all((a == b).all() for a, b in zip(value, source, strict=True))


def test_a_full_file_system_is_an_error_and_the_segment_stays_unsealed(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def full(file: int, pieces: list[memoryview], at: int) -> int:
        if at > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, [memoryview(b"".join(pieces))[:70_000]], at)

    dumped = dump(np.arange(100_000))
    files.create("p-1", size_class(dumped.segment_bytes()))
    path = segment_path(files.directory, "p-1")
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises(OSError, match="No space left") as caught:
            SegmentWriter().write(path, 1, dumped, False)
    assert caught.value.errno == errno.ENOSPC
    assert descriptors() == before
    with pytest.raises(SegmentMoved):
        open_segment(path, 1)
    assert files.try_recycle("p-1", 2)


def test_threads_share_a_writer(files: SegmentFiles) -> None:
    writer = SegmentWriter(kept_max=2)
    wrong: list[object] = []

    def work(index: int) -> None:
        name = f"p-{index}"
        path = segment_path(files.directory, name)
        files.create(name, size_class(2 * LARGE))
        for generation in range(1, 6):
            source = np.full(LARGE, index * 10 + generation, np.uint8)
            writer.write(path, generation, dump(source), generation > 1)
            if not (open_segment(path, generation) == source).all():
                wrong.append((index, generation))
            files.try_recycle(name, generation + 1)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    writer.close()
    assert wrong == []


# -- files


def test_closing_removes_every_segment_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "q-1").write_bytes(b"of another node")
    files = SegmentFiles(str(tmp_path))
    files.create("p-1", 4096)
    files.create("p-2", 4096)
    files.unlink("p-2")
    files.unlink("p-2")
    files.close()
    assert os.listdir(tmp_path) == ["q-1"]


def test_a_segment_is_private_and_takes_no_memory_before_it_is_written(
    files: SegmentFiles, tmp_path: Path
) -> None:
    files.create("p-1", 1 << 30)
    found = (tmp_path / "p-1").stat()
    assert (found.st_mode & 0o777, found.st_size) == (0o600, 1 << 30)
    assert found.st_blocks * 512 <= 64 * 1024


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc/passwd", "a\0b"])
def test_names_that_are_paths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a segment"):
        segment_path("/dev/shm/x", name)


def test_links_are_not_followed(files: SegmentFiles, tmp_path: Path) -> None:
    target = put(files, "p-1", "value")
    link = tmp_path / "p-2"
    link.symlink_to(target)
    try:
        with pytest.raises(OSError, match="symbolic links"):
            open_segment(str(link), 1)
        with pytest.raises(OSError, match="symbolic links"):
            write_segment(str(link), 1, dump("value"), False)
    finally:
        link.unlink()
