"""Segments: large values as files of shared memory, written once, read where they lie.

The node makes, recycles and removes the files; whoever has a value writes it and says so to the
node; readers map it without asking anybody. The lock on the file is the whole protocol: a writer
holds it alone from opening to the end, a reader shares it for as long as anything of the mapping
lives, and the node recycles only what it can lock alone. Each recycling has a new generation,
which is in the file's header and in the name that readers were given. The kernel lets go of the
locks of dead processes.

A full file system must be an error, never a SIGBUS: only pages that exist are written through a
mapping, the others by `pwrite`. Who may have how much, and when it goes, is decided by the node.
"""

import contextlib
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fabric.core.sizes import HEADER_BYTES
from fabric.images import HEADER, MAGIC, SEALED, Dumped, body, header, packed_header, parts
from fabric.protocol.values import Failure
from fabric.runtime.mappings import map_shared
from fabric.serialization import load

FIRST_GENERATION = 1
MAP_BYTES_MIN = 1024 * 1024
"""Smaller values go by `pwrite` also into warm pages: a mapping would cost more than it saves."""

COPY_BYTES = 4 * 1024 * 1024
"""Copies into a mapping hold the GIL; between pieces of this size another thread may have it."""

WRITE_BYTES = 256 * 1024 * 1024
WRITE_PIECES = 512
KEPT_MAX = 4
"""Segments that a writer keeps mapped, because a mapping costs a fifth of a copy to make."""


class SegmentMoved(Exception):
    """The segment does not hold that value any more (or not yet): ask the owner again."""


def segment_path(directory: str, name: str) -> str:
    """The file of a segment. Names come in messages, so they are not trusted to be names."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a segment")
    return os.path.join(directory, name)


def store_full(directory: str, what: str, nbytes: int, reason: str) -> Failure:
    """Why a value could not be written: others fill the file system that the store is in."""
    room = os.statvfs(directory)
    free = room.f_bavail * room.f_frsize
    text = (
        f"{what}, {nbytes:,} bytes, cannot be written: the file system of {directory} has {free:,}"
        f" bytes free ({reason})"
    )
    return Failure("store_full", text, msgspec.msgpack.encode({"need": nbytes, "free": free}))


# -- the node's side


class SegmentFiles:
    """The segment files of one node."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._names: dict[str, None] = {}

    def create(self, name: str, nbytes: int) -> None:
        """An empty segment of its first generation. It takes memory only as it is written."""
        path = segment_path(self.directory, name)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._names[name] = None
        try:
            os.ftruncate(file, nbytes)
            os.pwrite(file, packed_header(FIRST_GENERATION, 0, 0, 0), 0)
        except OSError:
            self.unlink(name)
            raise
        finally:
            os.close(file)

    def try_recycle(self, name: str, generation: int) -> bool:
        """Give the segment that generation, unless a reader pins it or a writer still writes."""
        file = os.open(segment_path(self.directory, name), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            os.pwrite(file, packed_header(generation, 0, 0, 0), 0)
            return True
        finally:
            os.close(file)

    def unlink(self, name: str) -> None:
        """Remove the file; who has it mapped keeps its memory."""
        self._names.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(segment_path(self.directory, name))

    def close(self) -> None:
        """Remove every segment of this node."""
        for name in list(self._names):
            self.unlink(name)


# -- the writer's side


class Opened:
    """A segment opened for writing, and what of it is mapped."""

    __slots__ = ("file", "mapped", "mapping")

    def __init__(self, path: str) -> None:
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise SegmentMoved(f"{path} is gone") from None
        self.mapping: mmap.mmap | None = None
        self.mapped = 0

    def map_warm(self) -> None:
        """Map the pages that exist, from the start to the first that does not."""
        self.unmap()
        warm = min(os.lseek(self.file, 0, os.SEEK_HOLE), os.fstat(self.file).st_size)
        if warm >= MAP_BYTES_MIN:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self.mapping = mmap.mmap(self.file, warm, flags=flags)
            self.mapped = warm

    def unmap(self) -> None:
        """Let go of the mapping."""
        if self.mapping is not None:
            self.mapping.close()
        self.mapping, self.mapped = None, 0

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the segment. Let go of by name, because a forked child may share the file."""
        fcntl.flock(self.file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def is_unlinked(self) -> bool:
        """Whether only this process keeps its memory."""
        return os.fstat(self.file).st_nlink == 0

    def close(self) -> None:
        """Let go of the file."""
        self.unmap()
        os.close(self.file)


class SegmentWriter:
    """Writes segments, from any thread, and keeps the last large ones mapped for the next value.

    What is kept mapped after the node has removed it takes memory until `trim` is called.
    """

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self.kept_max = kept_max
        self._lock = threading.Lock()  # for the table only: writing takes too long
        # path -> segment, the one unused for longest first
        self._kept: dict[str, Opened] = {}

    def write(self, path: str, generation: int, dumped: Dumped, is_warm: bool) -> None:
        """Write and seal a value. `SegmentMoved` if another generation is there already.

        `OSError` ENOSPC if the file system is full; the segment is then not sealed.
        """
        with self._lock:
            opened = self._kept.pop(path, None)
        opened = opened or Opened(path)
        is_kept = False
        try:
            with opened.locked():
                self._write_locked(opened, generation, dumped, is_warm)
            is_kept = opened.mapping is not None and self._keep(path, opened)
        finally:
            if not is_kept:
                opened.close()

    def trim(self) -> None:
        """Let go of kept segments that the node has removed; call it now and then."""
        with self._lock:
            gone = [path for path, each in self._kept.items() if each.is_unlinked()]
            for path in gone:
                self._kept.pop(path).close()

    def close(self) -> None:
        """Let go of all kept segments."""
        with self._lock:
            for opened in self._kept.values():
                opened.close()
            self._kept.clear()

    def _keep(self, path: str, opened: Opened) -> bool:
        with self._lock:
            if self.kept_max <= 0 or path in self._kept:
                return False
            if len(self._kept) >= self.kept_max:
                self._kept.pop(next(iter(self._kept))).close()
            self._kept[path] = opened
            return True

    def _write_locked(self, opened: Opened, generation: int, dumped: Dumped, is_warm: bool) -> None:
        if opened.is_unlinked():
            raise SegmentMoved("the segment is gone")
        found = HEADER.unpack(os.pread(opened.file, HEADER.size, 0).ljust(HEADER.size, b"\0"))
        if found[:2] != (MAGIC, generation):
            raise SegmentMoved(f"generation {found[1]} instead of {generation}")
        if is_warm and dumped.nbytes >= MAP_BYTES_MIN and dumped.nbytes > opened.mapped:
            opened.map_warm()
        try:
            _fill(opened, dumped)
        except OSError:
            if not is_warm or dumped.nbytes >= MAP_BYTES_MIN:
                _give_back(opened)
            raise
        os.pwrite(opened.file, header(dumped, generation), 0)  # last: now it is whole


def write_segment(path: str, generation: int, dumped: Dumped, is_warm: bool) -> None:
    """Write and seal one value, as `SegmentWriter.write`, and keep nothing."""
    SegmentWriter(kept_max=0).write(path, generation, dumped, is_warm)


def _fill(opened: Opened, dumped: Dumped) -> None:
    """Everything behind the header: into the mapping as far as it goes, the rest by `pwrite`."""
    at = HEADER_BYTES
    rest: list[memoryview] = []
    for piece in body(dumped):
        view = memoryview(piece)
        room = max(0, min(len(view), opened.mapped - at))
        if room and opened.mapping is not None:
            _copy(opened.mapping, at, view[:room])
        if room < len(view):  # never an empty one
            rest.append(view[room:])
        at += len(view)
    _write_at(opened.file, max(HEADER_BYTES, opened.mapped), rest)


def _give_back(opened: Opened) -> None:
    """Give back the pages that half a value has taken, for others run into the same wall.

    Those that were there before are mapped, here and perhaps elsewhere, and have to stay.
    """
    size = os.fstat(opened.file).st_size
    os.ftruncate(opened.file, max(HEADER_BYTES, opened.mapped))
    os.ftruncate(opened.file, size)


def _copy(mapping: mmap.mmap, at: int, view: memoryview) -> None:
    for start in range(0, len(view), COPY_BYTES):
        piece = view[start : start + COPY_BYTES]
        mapping[at + start : at + start + len(piece)] = piece


def _write_at(file: int, at: int, pieces: Sequence[memoryview]) -> None:
    """All pieces one behind the other: many small ones in one call, a large one in several."""
    waiting = [
        piece[start : start + WRITE_BYTES]
        for piece in pieces
        for start in range(0, len(piece), WRITE_BYTES)
    ]
    waiting.reverse()  # the next one is the last
    while waiting:
        batch = [waiting.pop()]
        nbytes = len(batch[0])
        while waiting and len(batch) < WRITE_PIECES and nbytes + len(waiting[-1]) <= WRITE_BYTES:
            batch.append(waiting.pop())
            nbytes += len(batch[-1])
        left = nbytes - os.pwritev(file, batch, at)
        at += nbytes - left
        while left > 0:  # a full file system takes less and then says so
            piece = batch.pop()
            waiting.append(piece[max(0, len(piece) - left) :])
            left -= len(piece)


# -- the reader's side


def open_segment(path: str, generation: int) -> Any:
    """The value in that generation of a segment; arrays and tables in it lie in the segment.

    The segment is pinned while any of them lives. `SegmentMoved` if it holds something else.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise SegmentMoved(f"{path} is gone") from None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        image = map_shared(file, os.fstat(file).st_size)
    except BlockingIOError:
        raise SegmentMoved(f"{path} is being written or recycled") from None
    finally:
        os.close(file)  # the mapping keeps the open file, and so the lock
    magic, found, state, _, _ = HEADER.unpack_from(image)
    if (magic, found, state) != (MAGIC, generation, SEALED):
        raise SegmentMoved(f"{path} is at generation {found}, not {generation}")
    pickled, buffers = parts(image)
    return load(pickled, buffers)
