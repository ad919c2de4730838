"""Values, arguments and functions as bytes: what comes back, what is noted, what errors say."""

import enum
import functools
import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest

from fabric.exceptions import ObjectCorruptError, SerializationError
from fabric.ids import ObjectId
from fabric.images import Dumped
from fabric.serialization import (
    dump,
    dump_arguments,
    dump_function,
    function_id,
    load,
    load_arguments,
    load_function,
)

A, B = ObjectId(b"a" * 16), ObjectId(b"b" * 16)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass(frozen=True)
class Ref:
    """Travels as refs and actor handles do."""

    object_id: ObjectId

    def _fabric_reduce_(self, note: Callable[[ObjectId], object]) -> tuple[Any, ...]:
        note(self.object_id)
        return Ref, (self.object_id,)

    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("the fabric's own pickles note refs")


class Colour(enum.Enum):
    RED = 1


@dataclass
class Connection:
    lock: Any


@dataclass
class Settings:
    db: Connection


class Slotted:
    __slots__ = ("fine", "lock")

    def __init__(self) -> None:
        self.fine, self.lock = 1, threading.Lock()


settings = Settings(Connection(threading.Lock()))


def is_ref(thing: object) -> bool:
    return isinstance(thing, Ref)


def again(value: Any) -> Any:
    """Through both ways a value travels; they must agree."""
    dumped = dump(value)
    assert dumped.nbytes == len(dumped.pickled) + sum(each.nbytes for each in dumped.buffers)
    load(dumped.pickled, dumped.buffers)
    return load(dumped.packed())


# -- values


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -(1 << 80),
        2.5,
        1j,
        "text",
        b"bytes",
        bytearray(b"mutable"),
        (),
        (1, "a", None),
        tuple(range(100)),
        [1, [2, {"three": {4}}]],
        frozenset({1}),
        Colour.RED,
        len,
        np.float64(1.5),
        range(3),
        b"x" * 1_000_000,
        bytearray(b"x" * 1_000_000),
        "é" * 1_000_000,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    loaded = again(value)
    assert loaded == value
    assert type(loaded) is type(value)


def test_a_small_value_is_a_plain_pickle() -> None:
    assert dump(7) == Dumped(pickle.dumps(7, 5), (), (), len(pickle.dumps(7, 5)))
    assert dump((1, None)).packed() == pickle.dumps((1, None), 5)


@pytest.mark.parametrize("count", [1, 10, 100_000])
def test_an_array_comes_back_read_only_whatever_its_size(count: int) -> None:
    source = np.arange(count)
    loaded = again({"array": source})["array"]
    assert (loaded == source).all()
    assert not loaded.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 1


def test_buffers_stay_outside_of_the_pickle_and_are_not_copied() -> None:
    source = np.arange(1000)
    dumped = dump([source, source[:10]])
    assert [each.nbytes for each in dumped.buffers] == [8000, 80]
    assert np.shares_memory(np.frombuffer(dumped.buffers[0], dtype=source.dtype), source)
    loaded = load(dumped.pickled, dumped.buffers)
    assert np.shares_memory(loaded[0], source)


def test_large_bytes_stay_outside_of_the_pickle() -> None:
    blob = b"x" * 100_000
    dumped = dump(blob)
    assert [each.obj for each in dumped.buffers] == [blob]
    assert len(dumped.pickled) < 200


def test_arrays_that_are_not_contiguous_come_back() -> None:
    source = np.arange(10_000).reshape(100, 100)
    assert (again(source[::2, ::3]) == source[::2, ::3]).all()
    assert (again(source.T) == source.T).all()
    assert again(np.array([{"a": 1}, None], dtype=object)).tolist() == [{"a": 1}, None]


def test_tables_travel_as_one_buffer_and_take_only_their_rows() -> None:
    table = pa.table({"number": list(range(10_000)), "text": ["x"] * 10_000})
    table = table.replace_schema_metadata({"key": "kept"})
    batch = table.to_batches()[0]
    dumped = dump([table, table.slice(5, 2), batch])
    assert len(dumped.buffers) == 3
    assert dumped.buffers[1].nbytes < 2_000
    loaded = load(dumped.pickled, dumped.buffers)
    assert loaded[0].equals(table, check_metadata=True)
    assert loaded[1].equals(table.slice(5, 2))
    assert loaded[2].equals(batch)
    assert isinstance(loaded[2], pa.RecordBatch)


def test_an_empty_table_and_an_empty_batch_come_back() -> None:
    table = pa.table({"n": pa.array([], pa.int64())})
    batch = pa.record_batch({"n": pa.array([], pa.int64())})
    assert again(table).equals(table)
    assert again(batch).equals(batch)


def test_refs_met_inside_are_noted() -> None:
    dumped = dump({"a": [Ref(A)], "b": Ref(B)})
    assert list(dumped.refs) == [A, B]
    assert load(dumped.pickled) == {"a": [Ref(A)], "b": Ref(B)}


def test_refs_are_noted_once_also_where_cloudpickle_is_needed() -> None:
    dumped = dump([Ref(A), lambda: 1, Ref(B)])
    assert list(dumped.refs) == [A, B]


def test_functions_and_classes_of_a_function_travel_by_value() -> None:
    factor = 3

    class Local:
        def times(self, number: int) -> int:
            return number * factor

    assert again([lambda x: x + factor])[0](1) == 4
    assert again(Local()).times(2) == 6


def test_modules_are_named() -> None:
    assert again([os.path])[0] is os.path


def test_modules_registered_by_the_user_travel_by_value() -> None:
    module = types.ModuleType("only_here")
    exec("def f(): return 5\n", module.__dict__)
    sys.modules["only_here"] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        dumped = dump([module.f])
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["only_here"]
    assert load(dumped.pickled)[0]() == 5


def test_what_main_defines_means_the_same_elsewhere() -> None:
    script = (
        "import sys\n"
        "from dataclasses import dataclass\n"
        "from fabric.serialization import dump\n"
        "@dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "    def double(self):\n"
        "        return Point(self.x * 2)\n"
        "sys.stdout.buffer.write(dump({'point': Point(4)}).packed())\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, timeout=30
    )
    assert load(made.stdout)["point"].double().x == 8


def test_importing_it_imports_no_heavy_module() -> None:
    script = (
        "import sys, fabric.serialization, fabric.failures, fabric.runtime.segments\n"
        "heavy = 'numpy', 'pyarrow', 'cloudpickle', 'ctypes', 'tblib', 'pandas'\n"
        "assert not [name for name in heavy if name in sys.modules], sys.modules.keys()\n"
        "fabric.serialization.dump([1, {'a': (2.5, None)}])\n"
        "assert 'cloudpickle' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=30)


def test_a_broken_image_is_an_error_not_a_value() -> None:
    packed = dump(np.arange(1000)).packed()
    with pytest.raises(ObjectCorruptError):
        load(packed[:-1])
    with pytest.raises(ObjectCorruptError):
        load(b"\0" * len(packed))


# -- arguments


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, "a"), {}),
        ((1,), {"b": 2}),
        (([1], {"x": (2,)}), {"c": {3}}),
        ((b"x" * 100_000,), {"d": b"y" * 100_000}),
        ((None, [None]), {"e": None}),
    ],
)
def test_arguments_without_refs_come_back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    dumped, inputs = dump_arguments(args, kwargs, is_ref)
    assert inputs == []
    assert load_arguments(dumped.packed(), (), ()) == (args, kwargs)


def test_refs_among_the_arguments_are_replaced_by_their_values() -> None:
    args = (1, Ref(A), [Ref(B)], Ref(B))
    kwargs = {"x": Ref(A), "y": None}
    dumped, inputs = dump_arguments(args, kwargs, is_ref)
    assert inputs == [Ref(A), Ref(B), Ref(A)]
    assert list(dumped.refs) == [B]
    assert load_arguments(dumped.packed(), (), ["a", "b", "c"]) == (
        (1, "a", [Ref(B)], "b"),
        {"x": "c", "y": None},
    )
    assert kwargs == {"x": Ref(A), "y": None}


def test_arguments_that_are_refs_or_scalars_need_no_pickler() -> None:
    dumped, inputs = dump_arguments((Ref(A), 2), {}, is_ref)
    assert (inputs, dumped.refs, dumped.buffers) == ([Ref(A)], (), ())
    assert load_arguments(dumped.pickled, (), [None]) == ((None, 2), {})


def test_each_run_of_the_arguments_gets_its_own_copies() -> None:
    dumped, _ = dump_arguments(([1],), {"x": {}}, is_ref)
    first, second = (load_arguments(dumped.pickled, (), ()) for _ in range(2))
    first[0][0].append(2)
    assert second == (([1],), {"x": {}})


# -- functions


def test_a_function_comes_back_and_is_known_by_its_hash() -> None:
    factor = 2
    pickled = dump_function(lambda x: x * factor)
    assert load_function(pickled)(21) == 42
    assert len(function_id(pickled)) == 16
    assert function_id(pickled) == function_id(bytes(bytearray(pickled)))
    assert function_id(pickled) != function_id(pickled + b".")


# -- culprits


def closure() -> Callable[[], object]:
    cfg = Settings(Connection(threading.Lock()))

    def f() -> object:
        return cfg

    return f


def with_default(x: int, lock: Any = threading.Lock()) -> None:  # noqa: B008
    return None


class Outer:
    lock = threading.Lock()

    def method(self) -> object:
        return self.lock


def by_value(thing: Any) -> Any:
    """The same as `__main__` would have it: pickled by value."""
    if isinstance(thing, type):
        names = {k: v for k, v in vars(thing).items() if k not in ("__dict__", "__weakref__")}
        return type(thing.__name__, (), {**names, "__module__": "__main__"})
    copy = types.FunctionType(
        thing.__code__, thing.__globals__, thing.__name__, thing.__defaults__, thing.__closure__
    )
    copy.__module__ = "__main__"
    return copy


def uses_a_global() -> object:
    return [lambda: settings.db]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (threading.Lock(), "`value` (threading.Lock)"),
        (settings, "`value.db.lock` (threading.Lock)"),
        ([1, {"k": settings}], "`value[1]['k'].db.lock` (threading.Lock)"),
        (Slotted(), "`value.lock` (threading.Lock)"),
        (functools.partial(print, settings), "`value.args[0].db.lock` (threading.Lock)"),
        ([closure()], "`cfg.db.lock` (threading.Lock) in the closure of `value[0]`"),
        (settings.db.__eq__, "`value.__self__.lock` (threading.Lock)"),
        ({threading.Lock(): 1}, "`a key of value` (threading.Lock)"),
        (frozenset({threading.Lock()}), "`an item of value` (threading.Lock)"),
        ((each for each in [1]), "`value` (generator)"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_error_names_the_path_to_the_culprit(value: object, sentence: str) -> None:
    with pytest.raises(SerializationError) as caught:
        dump(value)
    assert caught.value.text.startswith(f"Cannot pickle {sentence}: TypeError: cannot pickle")


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (closure(), "`cfg.db.lock` (threading.Lock) in the closure of `closure.<locals>.f`"),
        (
            by_value(uses_a_global),
            "`settings.db.lock` (threading.Lock) among the globals of `uses_a_global`",
        ),
        (by_value(Outer), "`Outer.lock` (threading.Lock)"),
        (
            by_value(with_default),
            "(threading.Lock) among the defaults of `with_default`",
        ),
    ],
)
def test_an_error_names_what_a_function_drags_along(
    function: Callable[..., object], sentence: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        dump_function(function)
    assert sentence in caught.value.text


def test_an_error_names_the_argument() -> None:
    with pytest.raises(SerializationError, match=r"`args\[1\]\.db\.lock` \(threading\.Lock\)"):
        dump_arguments((1, settings), {}, is_ref)
    with pytest.raises(SerializationError, match=r"`cfg\.db\.lock` \(threading\.Lock\)"):
        dump_arguments((1,), {"cfg": settings}, is_ref)


class Rude:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in __reduce__")

    def __repr__(self) -> str:
        raise ZeroDivisionError("in __repr__")


def test_rude_objects_are_culprits_like_others() -> None:
    with pytest.raises(SerializationError, match=r"`value\[0\]` .*Rude.*in __reduce__"):
        dump([Rude()])


def test_nesting_without_end_is_an_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match="recursion"):
        dump(value)


def test_a_value_that_contains_itself_comes_back() -> None:
    value: list[Any] = [1]
    value.append(value)
    loaded = again(value)
    assert loaded[1] is loaded
