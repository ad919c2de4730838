"""Shared words: how far a worker has come, in memory that survives `kill -9`.

The node makes one file with a slot for each worker; a worker maps its own slot and, before each
call, writes which number of which lease it starts. When the worker is dead the node reads the slot:
numbers below were done, the one named was running unless it is marked as finished, above it nothing
had started. At the slot's end stands the name of what runs, for output that does not say whose it
is; it alone is read while the worker lives. Nothing here locks: one thread of one process writes a
slot.

With ``max_concurrency`` above 1 calls overlap and one number says too little; then whatever was
delivered and not answered may have run, and the words are not asked.
"""

import contextlib
import mmap
import os
import struct

from fabric.ids import INCARNATION_BYTES, Incarnation
from fabric.protocol.values import Progress

SLOT_BYTES = max(16 * 1024, mmap.ALLOCATIONGRANULARITY)
"""One worker's slot. A slot is mapped alone, so it cannot be smaller than what the kernel maps."""

ENTRY = struct.Struct("=8sQQ")
"""Caller, lease, and the word: the call's number times two, plus one once it has finished."""

NAME_BYTES = 256
"""The slot's end: a length and a name in UTF-8."""

CLOCK = struct.Struct("=d")
"""Before it: when the call that was started last began, by the clock of all processes."""

NAME_AT = SLOT_BYTES - NAME_BYTES
CLOCK_AT = NAME_AT - CLOCK.size
ENTRIES = CLOCK_AT // ENTRY.size
NOBODY = bytes(INCARNATION_BYTES)
"""The caller of an entry that is not in use, or is just being written."""


class Word:
    """Worker side: what is running now. Two aligned stores a call, no system call."""

    def __init__(self, path: str, slot: int) -> None:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._mapping = mmap.mmap(file, SLOT_BYTES, offset=slot * SLOT_BYTES)
        finally:
            os.close(file)
        # eight bytes at a time: a store that `kill -9` cannot cut in two
        self._cells = memoryview(self._mapping).cast("Q")
        self._clock = memoryview(self._mapping)[CLOCK_AT:].cast("d")
        # (caller, lease) -> entry, the one unused for longest first
        self._places: dict[tuple[bytes, int], int] = {}
        self._caller = NOBODY
        self._lease = -1
        self._cell = 0
        self._word = 0

    def start(self, caller: bytes, lease: int, number: int, now: float = 0.0) -> None:
        """Call ``number`` of that lease starts now."""
        self._clock[0] = now
        if lease != self._lease or caller != self._caller:
            self._turn_to(caller, lease, number)
        self._word = word = number * 2
        self._cells[self._cell] = word

    def finish(self) -> None:
        """The call that started last has ended; its answer may still be lost."""
        self._cells[self._cell] = self._word + 1

    def name(self, name: bytes) -> None:
        """What runs from now on has that name."""
        name = name[: NAME_BYTES - 1]
        self._mapping[NAME_AT : NAME_AT + len(name) + 1] = bytes((len(name),)) + name

    def close(self) -> None:
        """Unmap the slot; what it says stays for the node."""
        self._cells.release()
        self._clock.release()
        self._mapping.close()

    def _turn_to(self, caller: bytes, lease: int, number: int) -> None:
        place = self._places.pop((caller, lease), None)
        if place is None:
            place = len(self._places) if len(self._places) < ENTRIES else self._forget(lease)
            self._enter(place, caller, lease, number)
        self._places[caller, lease] = place
        self._caller, self._lease = caller, lease
        self._cell = place * (ENTRY.size // 8) + 2

    def _forget(self, lease: int) -> int:
        """The entry unused for longest, of another lease if there is one: those are over."""
        key = next((key for key in self._places if key[1] != lease), next(iter(self._places)))
        return self._places.pop(key)

    def _enter(self, place: int, caller: bytes, lease: int, number: int) -> None:
        """Write an entry so that a death in between leaves nobody's entry, never a mixed one."""
        at = place * ENTRY.size
        self._mapping[at : at + INCARNATION_BYTES] = NOBODY
        ENTRY.pack_into(self._mapping, at, NOBODY, lease, number * 2)
        self._mapping[at : at + INCARNATION_BYTES] = caller


def read_progress(slot: bytes) -> tuple[Progress, ...]:
    """What a dead worker's slot says, one item for each caller and lease."""
    return tuple(
        Progress(Incarnation(caller), lease, word // 2, bool(word % 2))
        for caller, lease, word in ENTRY.iter_unpack(slot[: ENTRIES * ENTRY.size])
        if caller != NOBODY
    )


def known_from(progress: tuple[Progress, ...]) -> int:
    """Leases below this number may be missing there, because later ones took their entries."""
    return min(one.lease for one in progress) if len(progress) >= ENTRIES else 0


class Words:
    """Node side: the file, and which of its slots are taken.

    Slots are read and cleared through the descriptor: a mapping would turn a full disk into SIGBUS.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        self._taken: set[int] = set()

    def allocate(self) -> int:
        """The lowest free slot, empty and backed by memory; OSError where none is left."""
        slot = next(number for number in range(len(self._taken) + 1) if number not in self._taken)
        os.posix_fallocate(self._file, slot * SLOT_BYTES, SLOT_BYTES)
        self._taken.add(slot)
        return slot

    def progress(self, slot: int) -> tuple[Progress, ...]:
        """What the worker of that slot had reached; to be asked when it is dead."""
        return read_progress(os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES))

    def name(self, slot: int) -> str:
        """The name of what its worker runs, or ran last."""
        said = os.pread(self._file, NAME_BYTES, slot * SLOT_BYTES + NAME_AT)
        return said[1 : 1 + said[0]].decode(errors="replace")

    def started_at(self, slot: int) -> float:
        """When the call began that the living worker of that slot runs; 0 if it runs none."""
        words = os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES)
        if all(one.finished for one in read_progress(words)):
            return 0.0
        began: float = CLOCK.unpack_from(words, CLOCK_AT)[0]
        return began

    def release(self, slot: int) -> None:
        """Clear a slot for the next worker; the last one must be dead."""
        os.pwrite(self._file, bytes(SLOT_BYTES), slot * SLOT_BYTES)
        self._taken.remove(slot)

    def close(self) -> None:
        """Remove the file."""
        os.close(self._file)
        with contextlib.suppress(FileNotFoundError):  # whoever removed the directory was faster
            os.unlink(self.path)
