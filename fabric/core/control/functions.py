"""The table of functions: pickled functions and classes by their hash, and who waits for one.

A part of the control store. Who asks before the function was put waits, but not for ever. Beyond
the limit in bytes the oldest go that no living actor needs. The bytes are never looked into.
"""

from collections.abc import Callable, Collection, Mapping

from fabric.config import Limits
from fabric.core.machine import InvariantError
from fabric.ids import Address, FunctionId
from fabric.protocol.records import FunctionRecord, Record


class FunctionWait:
    """Those who asked for one function, and until when they wait."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.askers: dict[Address, None] = {}


class FunctionTable:
    """Every function kept, oldest first, and those asked for that nobody has put."""

    def __init__(self, records: Mapping[bytes, Record], limits: Limits) -> None:
        self.limits = limits
        self.table: dict[FunctionId, FunctionRecord] = {}
        self.waits: dict[FunctionId, FunctionWait] = {}  # in the order of `until`
        self.nbytes = 0
        self._changed: dict[FunctionId, None] = {}
        for record in records.values():
            if not isinstance(record, FunctionRecord):
                raise InvariantError(f"table functions has a row {record!r}")
            self.table[record.function] = record
            self.nbytes += len(record.pickled)

    def put(
        self, record: FunctionRecord, needed: Callable[[], Collection[FunctionId]]
    ) -> list[Address]:
        """Keep it, if there is room or room can be made; who waited for it."""
        if record.function not in self.table and self._make_room(len(record.pickled), needed):
            self.table[record.function] = record
            self.nbytes += len(record.pickled)
            self._changed[record.function] = None
        wait = self.waits.pop(record.function, None)
        return [] if wait is None else list(wait.askers)

    def ask(self, function: FunctionId, asker: Address, now: float) -> FunctionRecord | None:
        """The function; without it the asker waits."""
        found = self.table.get(function)
        if found is None:
            until = now + self.limits.function_wait_s
            wait = self.waits.setdefault(function, FunctionWait(until))
            wait.askers[asker] = None
        return found

    def overdue(self, now: float) -> list[tuple[FunctionId, list[Address]]]:
        """Functions that nobody put in time, with who asked."""
        late = []
        for function, wait in self.waits.items():
            if wait.until > now:
                break
            late.append((function, list(wait.askers)))
        for function, _ in late:
            del self.waits[function]
        return late

    def deadline(self) -> float | None:
        """When the next asker has waited long enough."""
        return next((wait.until for wait in self.waits.values()), None)

    def take_changed(self) -> list[FunctionId]:
        """What changed since the last call."""
        changed, self._changed = list(self._changed), {}
        return changed

    def check(self) -> None:
        """The bytes are counted right and within the limit; nobody waits for what is there."""
        nbytes = sum(len(record.pickled) for record in self.table.values())
        if nbytes != self.nbytes or nbytes > self.limits.functions_bytes_max:
            raise InvariantError(f"{nbytes} bytes of functions are kept, {self.nbytes} counted")
        for function in self.waits:
            if function in self.table:
                raise InvariantError(f"{function.hex()} is waited for and there")

    def _make_room(self, nbytes: int, needed: Callable[[], Collection[FunctionId]]) -> bool:
        excess = self.nbytes + nbytes - self.limits.functions_bytes_max
        if excess <= 0:
            return True
        going: list[FunctionId] = []
        kept = needed()
        for function, record in self.table.items():
            if excess <= 0:
                break
            if function not in kept:
                going.append(function)
                excess -= len(record.pickled)
        if excess > 0:
            return False
        for function in going:
            self.nbytes -= len(self.table.pop(function).pickled)
            self._changed[function] = None
        return True
