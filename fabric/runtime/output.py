"""The node's ears for its workers' output: pipes in, log files and `WorkerWrote` out.

A worker's descriptors 1 and 2 are named pipes that the node made, so what a worker has written
survives it, and a worker that writes faster than the node reads waits for it. Everything goes into
the worker's log files, which are rotated and, when their worker is dead, removed by age. Lines are
told as blocks; which driver sees how many of them the node's machine decides.

One epoll descriptor covers all pipes: the node's loop watches that one and calls `hear`. All calls
belong to the node's main thread.
"""

import contextlib
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from fabric.config import Limits
from fabric.core.events import WorkerWrote
from fabric.ids import Incarnation
from fabric.runtime.marks import Block, Splitter

READ_BYTES = 64 * 1024
"""What a pipe holds, and what is read from one in a turn."""

READS_MAX = 16
"""A pipe that is to be read to its end is read so often at most: somebody may write on and on."""

UNFINISHED_S = 0.2
"""An unfinished line is told after this long without another byte."""

log = logging.getLogger("fabric.output")


class LogFile:
    """A file that begins with its first byte and becomes ``….1`` when it is full."""

    def __init__(self, path: str, bytes_max: int) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._file = -1
        self._size = 0
        self._older_bytes = 0
        self._is_broken = False

    @property
    def nbytes(self) -> int:
        """What it takes on the disk, with the one before."""
        return self._size + self._older_bytes

    def write(self, text: bytes) -> None:
        """Append; a disk that takes no more costs the log, and is said once."""
        if self._is_broken or not text:
            return
        try:
            if self._file < 0 or self._size + len(text) > self._bytes_max:
                self._begin()
            while text:
                written = os.write(self._file, text)
                self._size += written
                text = text[written:]
        except OSError as error:
            self._is_broken = True
            log.warning("%s cannot be written any more: %s", self.path, error)

    def _begin(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            os.replace(self.path, self.path + ".1")
            self._older_bytes = self._size
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        self._size = 0

    def close(self) -> None:
        """Nothing more comes."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        """Take it away, with the one before."""
        for path in (self.path, self.path + ".1"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


class Stream:
    """One pipe of one worker, and the log that it fills."""

    def __init__(
        self,
        worker: Incarnation,
        is_error: bool,
        path: str,
        bytes_max: int,
        name: Callable[[], str],
    ) -> None:
        self.worker = worker
        self.is_error = is_error
        self.pipe_path = path + ".pipe"
        self.log = LogFile(path, bytes_max)
        self.rest_due = 0.0
        self._name = name
        self._splitter = Splitter()
        os.mkfifo(self.pipe_path, 0o600)
        # also open for writing: a pipe that nobody writes to is no news then
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self.pipe_path, flags)

    @property
    def has_rest(self) -> bool:
        """A line is unfinished."""
        return self._splitter.has_rest

    def read(self) -> list[Block] | None:
        """What waits, up to `READ_BYTES`; None if nothing does."""
        try:
            chunk = os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return None
        plain, blocks = self._splitter.feed(chunk, self._name)
        self.log.write(plain)
        return blocks

    def rest(self) -> list[Block]:
        """The unfinished line, as a line; in the log it may still go on."""
        plain, blocks = self._splitter.rest()
        self.log.write(plain)
        return blocks

    def close(self) -> None:
        """Nobody writes any more."""
        os.close(self.descriptor)
        os.unlink(self.pipe_path)
        self.log.close()


class WorkerOutput:
    """All workers of one node."""

    def __init__(self, directory: str, limits: Limits, name_of: Callable[[int], str]) -> None:
        os.makedirs(directory, 0o700, exist_ok=True)
        self._directory = directory
        self._limits = limits
        self._name_of = name_of
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}  # by descriptor
        self._of_worker: dict[Incarnation, list[Stream]] = {}
        self._unfinished: dict[int, Stream] = {}
        self._written: list[WorkerWrote] = []
        self._kept: deque[LogFile] = deque()  # of dead workers, oldest first
        self._kept_bytes = 0

    def fileno(self) -> int:
        """Readable when `hear` has something to do."""
        return self._epoll.fileno()

    def open(self, worker: Incarnation, slot: int) -> tuple[str, str]:
        """Pipes for a worker that is about to be started: its standard output and error."""
        base = os.path.join(self._directory, f"worker-{worker.hex()}")
        name = partial(self._name_of, slot)
        streams = self._of_worker[worker] = []
        for is_error, suffix in ((False, ".out"), (True, ".err")):
            stream = Stream(worker, is_error, base + suffix, self._limits.log_bytes_max, name)
            streams.append(stream)
            self._streams[stream.descriptor] = stream
            self._epoll.register(stream.descriptor, select.EPOLLIN)
        return streams[0].pipe_path, streams[1].pipe_path

    def close(self, worker: Incarnation) -> tuple[str, str]:
        """That worker is dead: hear its last words. Returns the paths of its logs."""
        streams = self._of_worker.pop(worker)
        for stream in streams:
            self._read_out(stream)
            del self._streams[stream.descriptor]
            self._unfinished.pop(stream.descriptor, None)
            stream.close()
            self._keep(stream.log)
        return streams[0].log.path, streams[1].log.path

    def abandon(self, worker: Incarnation) -> None:
        """That worker never began, or its pipes could not be made."""
        if worker in self._of_worker:
            self.close(worker)

    def end(self) -> None:
        """The node ends; workers that do not are not heard any more."""
        for worker in list(self._of_worker):
            self.close(worker)
        self._epoll.close()

    def hear(self) -> None:
        """Read what waits, from each pipe no more than it holds at once."""
        for descriptor, _ in self._epoll.poll(0):
            self._read(self._streams[descriptor])

    def hear_all(self, workers: Iterable[Incarnation]) -> None:
        """Everything that they have written before this moment, unfinished lines too."""
        for worker in workers:
            for stream in self._of_worker.get(worker, ()):
                self._read_out(stream)

    def tell_unfinished(self) -> None:
        """Lines that have not grown for a while are told as they are."""
        if not self._unfinished:
            return
        now = time.monotonic()
        for stream in [one for one in self._unfinished.values() if one.rest_due <= now]:
            self._end_line(stream)

    def take(self) -> list[WorkerWrote]:
        """What was heard since the last time."""
        written, self._written = self._written, []
        return written

    def patience_s(self, longest_s: float) -> float:
        """`tell_unfinished` has something to do after this long, if no pipe has before."""
        if not self._unfinished:
            return longest_s
        due = min(stream.rest_due for stream in self._unfinished.values())
        return min(longest_s, max(0.0, due - time.monotonic()))

    def _read(self, stream: Stream) -> bool:
        blocks = stream.read()
        if blocks is None:
            return False
        self._tell(stream, blocks)
        if stream.has_rest:
            stream.rest_due = time.monotonic() + UNFINISHED_S
            self._unfinished[stream.descriptor] = stream
        else:
            self._unfinished.pop(stream.descriptor, None)
        return True

    def _read_out(self, stream: Stream) -> None:
        for _ in range(READS_MAX):
            if not self._read(stream):
                break
        self._end_line(stream)

    def _end_line(self, stream: Stream) -> None:
        self._unfinished.pop(stream.descriptor, None)
        self._tell(stream, stream.rest())

    def _tell(self, stream: Stream, blocks: list[Block]) -> None:
        self._written += [
            WorkerWrote(stream.worker, stream.is_error, name, text) for name, text in blocks
        ]

    def _keep(self, file: LogFile) -> None:
        """A dead worker's log stays until there are too many."""
        if not file.nbytes:
            return
        self._kept.append(file)
        self._kept_bytes += file.nbytes
        limits = self._limits
        while len(self._kept) > limits.logs_kept_max or self._kept_bytes > limits.logs_bytes_max:
            oldest = self._kept.popleft()
            self._kept_bytes -= oldest.nbytes
            oldest.remove()
