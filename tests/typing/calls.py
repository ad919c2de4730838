"""What a type checker makes of calls; checked by mypy in `tests/test_typing.py`, never run.

Each ``type: ignore`` is an error that the checker has to find: one that it does not find is itself
an error (``warn_unused_ignores``).
"""

from typing import assert_type

import fabric
from fabric import ObjectRef, actor, arg, method, spawn, task


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task(num_cpus=2)
def name_of(x: int) -> str:
    return str(x)


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    @method
    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    @method(max_task_retries=2)
    def name(self) -> str:
        return str(self.n)


assert_type(add(1), int)
assert_type(add.remote(1), ObjectRef[int])
assert_type(add.remote(1, y=2), ObjectRef[int])
assert_type(add.options(num_cpus=2).remote(1), ObjectRef[int])
assert_type(name_of.remote(1), ObjectRef[str])
assert_type(fabric.get(add.remote(1)), int)
assert_type(add.remote(1).get(), int)
assert_type(fabric.get([add.remote(1), add.remote(2)]), list[int])
assert_type(fabric.put("text"), ObjectRef[str])
assert_type(add.remote(arg(add.remote(1))), ObjectRef[int])
assert_type(fabric.wait([add.remote(1)]), tuple[list[ObjectRef[int]], list[ObjectRef[int]]])

assert_type(add.remote(add.remote(1)), ObjectRef[int])


add.remote("one")  # type: ignore[call-overload]
add.remote()  # type: ignore[call-overload]
add.remote(1, z=2)  # type: ignore[call-overload]
add.remote(add.remote(1), y=2)  # type: ignore[call-overload]

counter = spawn(Counter, 5)
assert_type(counter, Counter)
assert_type(counter.add.remote(2), ObjectRef[int])
assert_type(counter.add.options(num_returns=1).remote(k=2), ObjectRef[int])
assert_type(counter.name.remote().get(), str)

spawn(Counter, "five")  # type: ignore[arg-type]
counter.add.remote("two")  # type: ignore[call-overload]


async def waits_for_one() -> None:
    assert_type(await add.remote(1), int)
    async for ref in fabric.as_completed([add.remote(1)]):
        assert_type(ref, ObjectRef[int])


for ref in fabric.as_completed([add.remote(1)]):
    assert_type(ref, ObjectRef[int])
