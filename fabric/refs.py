"""Object refs: the name of a value that is, or will be, somewhere.

A ref is made before anything is sent, holds a small value itself once there is one, and wakes who
waits for it. There is one Python object per object id and process, so ``is`` and ``==`` agree.
Counting across processes is not done here: a ref only says when it escapes, when it comes to life
from a pickle and when it dies, and the client's machine does the rest.

What user threads and the loop thread do here without a lock is right under the GIL because each
side writes first and reads second: the loop thread writes the value and then looks for waiters
(and whether the ref has escaped), a user thread adds its waiter (or says that the ref escapes)
and then looks for the value. At least one of them sees the other; both seeing each other does no
harm.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fabric.exceptions import FabricError
from fabric.ids import ObjectId, brief
from fabric.protocol.values import Value
from fabric.tracebacks import beneath

if TYPE_CHECKING:
    from concurrent.futures import Future

    from fabric.runtime.client import Client

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Waiter = Callable[["ObjectRef[Any]"], None]
"""Called once, on the loop thread, when the ref has its value; it must be quick and never user
code.
"""


class ObjectRef(Generic[T_co]):
    """The name of a value of type ``T_co``. `fabric.get`, `get` or ``await`` give the value."""

    __slots__ = (
        "__weakref__",
        "_client",
        "_contained",
        "_id",
        "_is_awaited",
        "_is_shared",
        "_is_tracked",
        "_value",
        "_waiters",
    )

    def __init__(self, client: Client, object_id: ObjectId, value: Value | None = None) -> None:
        self._client = client
        self._id = object_id
        self._value = value
        self._waiters: list[Waiter] | None = None
        self._contained: tuple[
            ObjectRef[Any], ...
        ] = ()  # refs inside a small put, kept alive by it
        self._is_awaited = False  # an argument of a call that was submitted while it was pending
        self._is_shared = False  # pickled or unpickled: known by id to the client
        self._is_tracked = False  # the machine has an entry of it that ends with a `Drop`

    @property
    def id(self) -> str:
        """The object's id in hex, as the command line knows it."""
        return self._id.hex()

    def get(self, timeout: float | None = None) -> T_co:
        """The value; waits for it up to ``timeout`` seconds. Raises what the task raised."""
        try:
            if self._value is None:
                from fabric.runtime import waits

                waits.wait_for_one(self._client, self, timeout)
            return self._load()
        except FabricError as error:
            error.__traceback__ = beneath(error.__traceback__)
            raise

    def future(self) -> Future[T_co]:
        """A `concurrent.futures.Future` of the value; callbacks run on a thread of their own."""
        from fabric.runtime import waits

        return waits.future_of(self._client, self)

    def __await__(self) -> Generator[Any, None, T_co]:
        if self._value is None:
            from fabric.runtime import waits

            yield from waits.wait_in_loop(self._client, self).__await__()
        try:
            return self._load()
        except FabricError as error:
            error.__traceback__ = beneath(error.__traceback__)
            raise

    def _load(self) -> T_co:
        """The value of a ref that has one: read anew each time, so that nobody shares it by
        accident.
        """
        try:
            value: T_co = self._client.load(self)
        except FabricError:
            raise
        except Exception as error:  # code of the value's own type
            error.add_note(f"raised while the value of {self!r} was unpickled in this process")
            raise
        return value

    def _fabric_reduce_(self, note: Callable[[ObjectId], object]) -> tuple[Any, ...]:
        """How it travels inside a pickle of the fabric: by id; the writer notes that it does."""
        self._client.check()
        self._client.shared.share(self)
        note(self._id)
        return revive, (self._id,)

    def __reduce__(self) -> tuple[Any, ...]:
        # pickled by somebody else, who tells nobody when the pickle is gone: kept for this client's
        # life
        self._client.check()
        self._client.shared.share(self)
        self._client.shared.pin(self)
        return revive, (self._id,)

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> ObjectRef[T_co]:
        return self

    def __repr__(self) -> str:
        return f"<ObjectRef {brief('o', self._id)}>"

    def __iter__(self) -> Any:
        raise TypeError(
            "an ObjectRef is one value; for several results use .options(num_returns=n)"
        )

    def __del__(self) -> None:
        # a pending ref never comes here, the client holds it; a shared one says so by its watch
        if self._is_tracked and not self._is_shared:
            self._client.drop(self._id)


def revive(object_id: bytes) -> ObjectRef[Any]:
    """The ref of that id in this process: the one that lives, else a new one."""
    from fabric.runtime.client import current_client

    return current_client().shared.revive(ObjectId(object_id))


def arg(ref: ObjectRef[T]) -> T:
    """The ref itself, typed as its value: for passing a ref where a value is declared."""
    return ref  # type: ignore[return-value]
