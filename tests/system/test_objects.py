"""Objects in the real store: zero copies, memory that comes back, and a store that is full."""

import gc
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fabric
from fabric import actor, exceptions, task
from tests.system.looks import WAIT_S, mapping_of

pytestmark = pytest.mark.system

MB = 1_000_000


@task
def make(n: int, value: int = 0) -> Any:
    return np.full(n * MB, value, dtype=np.uint8)


@task
def look(array: Any) -> tuple[bool, str, str, int]:
    """Whether it can be written, the mapping it lies in, and its sum."""
    permissions, path = mapping_of(array.__array_interface__["data"][0])
    return array.flags.writeable, permissions, path, int(array.sum())


@actor
class Keeper:
    """Keeps what is in a box it is given, until told to let go."""

    def __init__(self) -> None:
        self.kept: Any = None

    def keep(self, box: Any) -> None:
        self.kept = box

    def first(self) -> int:
        return int(self.kept["ref"].get()[0])

    def give(self) -> Any:
        return self.kept

    def let_go(self) -> None:
        self.kept = None


Keepers: Any = Keeper


@pytest.fixture
def session() -> Iterator[fabric.Context]:
    with fabric.init(num_cpus=2) as context:
        yield context


@pytest.fixture
def small_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[fabric.Context]:
    """A store with room for 100 MB; who asks for more is refused soon."""
    monkeypatch.setenv("FABRIC_STORE_FULL_GRACE_S", "0.3")
    with fabric.init(num_cpus=2, object_store_memory=100 * MB) as context:
        yield context


# ---------------------------------------- values


class Plain:
    """Pickled by its module's name."""

    def __init__(self, x: int) -> None:
        self.x = x


def test_small_and_large_values_come_back(session: fabric.Context) -> None:
    for value in (None, 0, "s" * 200, {"a": [1, (2, {3})]}, b"b" * 3 * MB, list(range(300_000))):
        assert fabric.put(value).get(WAIT_S) == value
    assert fabric.put(Plain(3)).get(WAIT_S).x == 3
    big: Any = fabric.put({"one": np.arange(MB), "two": [np.ones((300, 300))]}).get(WAIT_S)
    assert big["one"].sum() == MB * (MB - 1) // 2
    assert big["two"][0].shape == (300, 300)
    value = [1]
    ref = fabric.put(value)
    value.append(2)
    assert ref.get(WAIT_S) == [1]


def test_a_ref_cannot_be_put(session: fabric.Context) -> None:
    with pytest.raises(TypeError, match="ref"):
        fabric.put(fabric.put(1))


def test_large_arrays_are_read_where_they_lie_and_cannot_be_written(
    session: fabric.Context,
) -> None:
    for ref in (fabric.put(np.full(5 * MB, 7, dtype=np.uint8)), make.remote(5, 7)):
        array = ref.get(WAIT_S)
        address = array.__array_interface__["data"][0]
        permissions, path = mapping_of(address)
        assert path.startswith("/dev/shm/fb-")
        assert permissions.startswith("r-")
        assert address % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        is_writable, permissions, seen, total = look.remote(ref).get(WAIT_S)
        assert (is_writable, permissions[:2], seen, total) == (False, "r-", path, 35 * MB)
        assert ref.get()[0] == 7


# ---------------------------------------- memory that comes back


def test_ten_gigabytes_go_through_a_store_of_two_hundred_megabytes_by_put() -> None:
    with fabric.init(num_cpus=2, object_store_memory=200 * MB):
        source = np.zeros(10 * MB, dtype=np.uint8)
        for i in range(1000):
            source[0] = i % 251
            assert fabric.put(source).get(WAIT_S)[0] == i % 251


def test_ten_gigabytes_go_through_a_store_of_two_hundred_megabytes_as_results() -> None:
    with fabric.init(num_cpus=2, object_store_memory=200 * MB):
        pending: list[Any] = []
        for i in range(1000):
            pending.append(make.remote(10, i % 251))
            if len(pending) == 4:
                assert pending.pop(0).get(WAIT_S)[0] == (i - 3) % 251
        assert [ref.get(WAIT_S)[0] for ref in pending] == [i % 251 for i in range(997, 1000)]


def test_a_full_store_is_an_error_with_the_need_and_the_capacity(
    small_store: fabric.Context,
) -> None:
    with pytest.raises(exceptions.ObjectStoreFullError, match=r"150,\d\d\d,\d\d\d.*100,000,000"):
        fabric.put(np.zeros(150 * MB, dtype=np.uint8))
    held = [fabric.put(np.full(30 * MB, i, dtype=np.uint8)) for i in range(2)]
    full = r"30,\d\d\d,\d\d\d.*100,000,000"
    with pytest.raises(exceptions.ObjectStoreFullError, match=full):
        fabric.put(np.zeros(30 * MB, dtype=np.uint8))
    with pytest.raises(exceptions.ObjectStoreFullError, match=full):
        make.remote(30).get(WAIT_S)
    assert [int(ref.get()[0]) for ref in held] == [0, 1]
    del held[0]
    assert make.remote(30, 9).get(WAIT_S)[0] == 9


def test_a_view_outlives_its_ref_and_pins_the_memory(small_store: fabric.Context) -> None:
    ref = fabric.put(np.full(60 * MB, 5, dtype=np.uint8))
    view = ref.get()[10:]
    del ref
    gc.collect()
    with pytest.raises(exceptions.ObjectStoreFullError):
        fabric.put(np.zeros(60 * MB, dtype=np.uint8))
    for i in range(5):
        fabric.put(np.full(20 * MB, i, dtype=np.uint8))
    assert int(view.min()) == int(view.max()) == 5
    del view
    assert fabric.put(np.full(60 * MB, 6, dtype=np.uint8)).get()[0] == 6


# ---------------------------------------- borrowers


def test_a_ref_that_an_actor_keeps_stays_valid_and_its_memory_comes_back_when_let_go(
    small_store: fabric.Context,
) -> None:
    keeper = Keepers.remote()
    for is_put in (True, False):
        ref = fabric.put(np.full(60 * MB, 4, dtype=np.uint8)) if is_put else make.remote(60, 4)
        fabric.get(keeper.keep.remote({"ref": ref}), WAIT_S)
        del ref
        gc.collect()
        with pytest.raises(exceptions.ObjectStoreFullError):
            fabric.put(np.zeros(60 * MB, dtype=np.uint8))
        assert keeper.first.remote().get(WAIT_S) == 4
        box = keeper.give.remote().get(WAIT_S)
        assert int(box["ref"].get(WAIT_S)[-1]) == 4
        del box
        fabric.get(keeper.let_go.remote(), WAIT_S)
        assert int(make.remote(60, 3).get(WAIT_S)[0]) == 3


def test_a_small_ref_that_an_actor_keeps_stays_valid(session: fabric.Context) -> None:
    keeper = Keepers.remote()
    fabric.get(keeper.keep.remote({"ref": fabric.put([11])}), WAIT_S)
    gc.collect()
    assert keeper.first.remote().get(WAIT_S) == 11
    pending = make.remote(0, 0)
    fabric.get(keeper.keep.remote({"ref": fabric.put([12]), "other": pending}), WAIT_S)
    assert sys.getrefcount(pending) < 10
    del pending
    assert keeper.first.remote().get(WAIT_S) == 12
