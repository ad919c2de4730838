"""How values of user code become bytes and come back: arguments, results, puts and functions.

Small plain values take one call of C; the rest goes through a pickler that takes large buffers out
of the pickle (so that they are copied once, into shared memory, and read where they lie) and notes
the refs it meets. Where code of ``__main__``, lambdas or other things occur that plain pickle
knows by name only, the whole value is done by cloudpickle instead. What neither can do is an error
that names the culprit.

Only drivers and workers load; a daemon passes the bytes on. Counting the refs is the caller's.
"""

import contextlib
import functools
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol, cast

from fabric.exceptions import FabricError, SerializationError
from fabric.ids import FunctionId, ObjectId
from fabric.images import Dumped, parts
from fabric.tracebacks import PACKAGE

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "Dumped",
    "dump",
    "dump_arguments",
    "dump_function",
    "function_id",
    "load",
    "load_arguments",
    "load_function",
]

PROTOCOL = 5

FUNCTION_BYTES_MAX = 64 * 1024 * 1024
"""A pickled function or class must fit into a message."""
SCALARS = frozenset((int, float, bool, type(None), str, complex))
"""Types whose exact instances contain nothing and are pickled by C without asking anybody."""

SMALL_TUPLE = 8
RAW_BYTES_MIN = 32 * 1024
"""Bytes from this size are kept out of the pickle where they are a whole argument or value."""

PICKLE_MARK = 0x80
"""The first byte of every pickle of protocol 2 and later; an image begins with another."""

Note = Callable[[ObjectId], object]
Reduced = tuple[Any, ...]
Names = list[tuple[str, object]]
NO_ARGUMENTS = pickle.dumps((), PROTOCOL)


class Pickler(Protocol):
    """What the two picklers have in common."""

    def dump(self, value: object, /) -> None:
        """Pickle the value into the file."""


MakePickler = Callable[[io.BytesIO, Callable[[pickle.PickleBuffer], None], Note], Pickler]


class ByValue(Exception):
    """Plain pickle met something that it would only name, and the name means nothing elsewhere."""


# -- values


def dump(value: object, what: str = "value") -> Dumped:
    """Pickle a value.

    Raises `SerializationError` with the path to what cannot be pickled, from ``what`` on.
    """
    kind = type(value)
    if kind in SCALARS:
        pickled = pickle.dumps(value, PROTOCOL)
        return Dumped(pickled, (), (), len(pickled))
    if kind is tuple and _is_plain(cast("tuple[object, ...]", value)):
        pickled = pickle.dumps(value, PROTOCOL)
        return Dumped(pickled, (), (), len(pickled))
    return _dump_any(_raw_if_large(value), lambda: [(what, value)])


def load(pickled: bytes | memoryview, buffers: Iterable[memoryview] = ()) -> Any:
    """The value again, also from what `Dumped.packed` made; arrays are read-only, not copied."""
    if pickled[0] != PICKLE_MARK:
        pickled, buffers = parts(memoryview(pickled))
    return pickle.loads(pickled, buffers=buffers)


def _is_plain(items: tuple[object, ...]) -> bool:
    return len(items) <= SMALL_TUPLE and SCALARS.issuperset(map(type, items))


class Raw:
    """A bytes object that is to stay outside of the pickle; it comes back as what it was."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def _fabric_reduce_(self, note: Note) -> Reduced:
        return type(self.value), (pickle.PickleBuffer(self.value),)


def _raw_if_large(value: object) -> object:
    if type(value) in (bytes, bytearray):
        blob = cast("bytes | bytearray", value)
        return Raw(blob) if len(blob) >= RAW_BYTES_MIN else blob
    return value


# -- arguments


def dump_arguments(
    args: tuple[object, ...], kwargs: Mapping[str, object], is_ref: Callable[[object], bool]
) -> tuple[Dumped, list[object]]:
    """Pickle a call's arguments without the refs among them; the refs are returned, in order.

    The pickle is the bare tuple where there are only positional values, else a list of the
    positional ones, those by name, and the places of the refs, where it has ``None``.
    """
    if not kwargs:
        for each in args:
            if type(each) not in SCALARS:
                break
        else:
            pickled = pickle.dumps(args, PROTOCOL) if args else NO_ARGUMENTS
            return Dumped(pickled, (), (), len(pickled)), []
    positional, named = list(args), dict(kwargs)
    places: list[int | str] = []
    inputs: list[object] = []
    is_plain = True
    placed: tuple[tuple[int | str, object], ...] = (*enumerate(args), *kwargs.items())
    for place, each in placed:
        if type(each) in SCALARS:
            continue
        items = cast("dict[int | str, object]", named if isinstance(place, str) else positional)
        if is_ref(each):
            inputs.append(each)
            places.append(place)
            items[place] = None
        else:
            items[place] = _raw_if_large(each)
            is_plain = False
    packed: object = [tuple(positional), named, places] if named or places else tuple(positional)
    if is_plain:
        pickled = pickle.dumps(packed, PROTOCOL)
        return Dumped(pickled, (), (), len(pickled)), inputs
    return _dump_any(packed, lambda: _argument_names(args, kwargs)), inputs


def _argument_names(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Names:
    return [*((f"args[{index}]", each) for index, each in enumerate(args)), *kwargs.items()]


def load_arguments(
    pickled: bytes | memoryview, buffers: Iterable[memoryview], inputs: Sequence[object]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments again, with the values of the refs in their places."""
    loaded = load(pickled, buffers)
    if type(loaded) is tuple:
        return loaded, {}
    args, named, places = loaded
    if not places:
        return args, named
    positional = list(args)
    for place, value in zip(places, inputs, strict=True):
        (named if isinstance(place, str) else positional)[place] = value
    return tuple(positional), named


# -- functions


def dump_function(function: Callable[..., object]) -> bytes:
    """Pickle a function or class. A ref in its globals or closure is kept for the job's life."""
    import cloudpickle

    try:
        pickled: bytes = cloudpickle.dumps(function, PROTOCOL)
    except Exception as error:
        name = getattr(function, "__qualname__", None) or repr(function)
        raise _unpicklable([(name, function)], error) from _cause(error)
    if len(pickled) > FUNCTION_BYTES_MAX:
        name = getattr(function, "__qualname__", repr(function))
        raise SerializationError(
            f"{name} weighs {len(pickled):,} bytes pickled: it carries data in its globals, closure"
            f" or defaults, and at most {FUNCTION_BYTES_MAX:,} travel.",
            advice="`fabric.put` the data and pass its ref as an argument.",
        )
    return pickled


def load_function(pickled: bytes) -> Any:
    """The function or class again."""
    return pickle.loads(pickled)


def function_id(pickled: bytes) -> FunctionId:
    """What a pickled function is known by everywhere: its hash."""
    from hashlib import blake2b

    return FunctionId(blake2b(pickled, digest_size=16).digest())


# -- the two picklers


class PlainPickler(pickle.Pickler):
    """Pickle, with refs noted, tables as Arrow IPC, and `ByValue` raised where a name won't do."""

    def __init__(
        self, file: io.BytesIO, take: Callable[[pickle.PickleBuffer], None], note: Note
    ) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=take)
        self._note = note

    def reducer_override(self, thing: Any) -> Any:
        """C asks here for whatever is not a plain builtin."""
        kind = type(thing)
        if kind is FunctionType or isinstance(thing, type):
            if thing.__module__ == "__main__" or "<" in thing.__qualname__:
                raise ByValue
            return NotImplemented
        return _reduce(thing, self._note)


@functools.cache
def by_value_pickler() -> MakePickler:
    """The same on top of cloudpickle, which is slower and imported when first needed."""
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(
            self, file: io.BytesIO, take: Callable[[pickle.PickleBuffer], None], note: Note
        ) -> None:
            super().__init__(file, PROTOCOL, buffer_callback=take)
            self._note = note

        def reducer_override(self, thing: Any) -> Any:
            reduced = _reduce(thing, self._note)
            return super().reducer_override(thing) if reduced is NotImplemented else reduced

    return cast(MakePickler, ByValuePickler)


def _reduce(thing: Any, note: Note) -> Any:
    kind = type(thing)
    reduce = getattr(kind, "_fabric_reduce_", None)
    if reduce is not None:
        return reduce(thing, note)
    if kind.__module__ == "pyarrow.lib" and kind.__name__ in ("Table", "RecordBatch"):
        return _reduce_arrow(thing)
    return NotImplemented


def _dump_any(value: object, names: Callable[[], Names]) -> Dumped:
    """The general path. ``names`` tells what an error calls the value, or its parts."""
    if not _has_by_value_modules():
        # cloudpickle can do more; what it cannot do either, it says itself
        with contextlib.suppress(Exception):
            return _dump_with(PlainPickler, value)
    try:
        return _dump_with(by_value_pickler(), value)
    except FabricError:  # of a ref inside that is of another session, say
        raise
    except Exception as error:
        raise _unpicklable(names(), error) from _cause(error)


def _dump_with(make: MakePickler, value: object) -> Dumped:
    file = io.BytesIO()
    taken: list[pickle.PickleBuffer] = []
    refs: list[ObjectId] = []
    make(file, taken.append, refs.append).dump(value)
    pickled = file.getvalue()
    if not taken:
        return Dumped(pickled, (), refs, len(pickled))
    buffers = [each.raw() for each in taken]
    return Dumped(pickled, buffers, refs, len(pickled) + sum(each.nbytes for each in buffers))


def _has_by_value_modules() -> bool:
    """Whether the user told cloudpickle of modules that workers cannot import."""
    if "cloudpickle" not in sys.modules:
        return False
    import cloudpickle  # waits if another thread is just importing it

    return bool(cloudpickle.list_registry_pickle_by_value())


def _cause(error: Exception) -> Exception | None:
    """The error, if code of the user's raised it; what the pickler itself says is said already."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    file = at.tb_frame.f_code.co_filename if at is not None else ""
    is_picklers = file.startswith(PACKAGE) or "cloudpickle" in file
    return None if is_picklers else error


def _unpicklable(names: Names, error: Exception) -> SerializationError:
    if isinstance(error, SerializationError):
        return error
    from fabric.culprit import describe

    return SerializationError(describe(names, error))


# -- Arrow


def _reduce_arrow(table: "pyarrow.Table | pyarrow.RecordBatch") -> Reduced:
    """One buffer of Arrow IPC: a slice takes its own rows along and no others."""
    import pyarrow

    is_batch = isinstance(table, pyarrow.RecordBatch)
    counted = pyarrow.MockOutputStream()
    _write_arrow(counted, table)
    buffer = pyarrow.allocate_buffer(counted.size())
    _write_arrow(pyarrow.FixedSizeBufferWriter(buffer), table)
    return load_arrow, (pickle.PickleBuffer(buffer), is_batch)


def _write_arrow(sink: Any, table: "pyarrow.Table | pyarrow.RecordBatch") -> None:
    import pyarrow

    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)


def load_arrow(buffer: memoryview, is_batch: bool) -> "pyarrow.Table | pyarrow.RecordBatch":
    """A table that lies where the buffer lies."""
    import pyarrow

    reader = pyarrow.ipc.open_stream(pyarrow.py_buffer(buffer))
    return reader.read_next_batch() if is_batch else reader.read_all()
