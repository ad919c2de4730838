"""The client of this process: one loop thread that owns the machine and its sockets.

User threads make ids, pickle, put events into the loop's outbox and wait at refs; the loop thread
alone runs the machine and performs what it asks for. A driver and a worker that submits use this
very class, a worker's begins at its first submit. What a call means, who is asked for a worker
and what a reference counts is not decided here but in `fabric.core.client`.

`tell` appends to a deque and at most wakes the loop, so it may be called from ``__del__``. The
order in which a thread tells is the order in which the machine hears.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from fabric.config import Limits
from fabric.core.client.client import ClientMachine
from fabric.core.effects import Effect, Reply, Resolve, WriteSegment
from fabric.core.endpoint import Endpoint
from fabric.core.events import (
    Ask,
    DefineLocally,
    Drop,
    Event,
    Leave,
    Put,
    Submit,
    SubmitToActor,
    Want,
)
from fabric.exceptions import (
    ClusterError,
    FabricError,
    ForkedProcessError,
    SessionEndedError,
)
from fabric.failures import load_failure
from fabric.ids import (
    ActorId,
    Address,
    CallId,
    FunctionId,
    Incarnation,
    ObjectId,
    address,
    call_id,
)
from fabric.protocol.messages import AnyMessage, ClientRegistered, GetView, View
from fabric.protocol.values import UNIT, Failure, JobSpec, Sealed, Shape, Value
from fabric.refs import ObjectRef
from fabric.runtime.arguments import pack
from fabric.runtime.large_values import LargeValues
from fabric.runtime.questions import Questions
from fabric.runtime.shared_refs import SharedRefs
from fabric.runtime.waits import Waiting
from fabric.serialization import Dumped, dump, function_id, load

if TYPE_CHECKING:
    from fabric.runtime.waits import Blocking

Ref = ObjectRef[Any]

FIRST = b"\0\0"
"""The index of a call's first result."""

ANSWER_S = 60.0
"""A question to the control store that nobody answers for this long is an error."""

LINGER_S = 0.2
"""Last words may take this long to leave."""

CLOSE_S = 0.5
"""The loop thread gets this long to say goodbye."""


class Place(msgspec.Struct, frozen=True):
    """Where a client belongs: which fabric, which node, which directories."""

    cluster: str
    node: Address
    control: Address
    runtime_directory: str
    store_directory: str


class Client:
    """See the module."""

    def __init__(
        self,
        incarnation: Incarnation,
        place: Place,
        job: JobSpec,
        limits: Limits,
        *,
        is_driver: bool,
        entrypoint: str = "",
        blocking: Blocking | None = None,
    ) -> None:
        self.me = incarnation
        self.pid = os.getpid()
        self.place = place
        self.job = job
        self.limits = limits
        self.address = address("c", incarnation)
        self.blocking = blocking
        self.depth = 0
        """How deep the calls made now are: 0 from a driver, one more than the running call."""
        self.answer_s = ANSWER_S
        self.machine = ClientMachine(
            self.address,
            place.node,
            job,
            limits,
            is_driver=is_driver,
            pid=self.pid,
            entrypoint=entrypoint,
        )
        self.tell: Callable[[Event], None] = _nobody_hears
        self.why_closed: FabricError | None = None
        self.failure: BaseException | None = None  # of the loop thread
        self.registered = threading.Event()
        self.cpus = 0  # of its node, as soon as that has said so
        # one call of C, so no two threads get the same number
        self._next_number = itertools.count(1).__next__
        self._lock = threading.Lock()
        self.inflight: dict[ObjectId, Ref] = {}
        self._defined: dict[FunctionId, bool] = {}  # function → whether it is in the control store
        self.questions = Questions()
        self.large = LargeValues(self)
        self.shared = SharedRefs(self)
        self.waits = Waiting(self)
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="fabric-client", daemon=True)

    # -- life

    def start(self) -> None:
        """Start the loop thread; returns when it has its sockets."""
        answer = self.questions.expect(b"started")
        self._thread.start()
        answer.wait(self.answer_s)

    def _run(self) -> None:
        try:
            self._turn_until_the_end()
        except BaseException as error:  # fails every waiter; the user's process goes on
            self.failure = error
            self._fail_everything(Failure("cluster", f"The client's loop has failed: {error!r}."))
            if not isinstance(error, Exception):
                raise

    def _turn_until_the_end(self) -> None:
        from fabric.runtime import sockets
        from fabric.runtime.loop import Loop

        context = sockets.new_context()
        endpoint = Endpoint(
            self.address, self.machine, cluster=self.place.cluster, limits=self.limits
        )
        loop = Loop(
            endpoint,
            context,
            self.place.runtime_directory,
            clock=time.monotonic,
            perform=self._perform,
            frame_bytes_max=self.limits.frame_bytes_max,
        )
        try:
            loop.dial(self.place.node)
            self.tell = loop.tell_soon
            self.questions.answer(b"started", None)
            while not self._is_ending:
                loop.turn(math.inf)
            loop.turn(0.0)
        finally:
            self.tell = _nobody_hears
            loop.close(LINGER_S)
            context.destroy(linger=int(1000 * LINGER_S))

    def close(self) -> None:
        """Say goodbye and end the loop thread. What is still waited for fails. Idempotent."""
        with self._lock:
            if self.why_closed is not None:
                return
            self.why_closed = SessionEndedError("The session of this ref or handle is over.")
        self.tell(Leave())
        self._is_ending = True
        self.tell(Drop(()))  # wakes the loop, which then sees that it is to end
        self._thread.join(CLOSE_S)
        self.tell = _nobody_hears
        self._fail_everything(Failure("session_ended", str(self.why_closed.text)))
        self.waits.close()
        self.large.close()

    def abandon(self, why: FabricError) -> None:
        """In a forked child: nothing of the parent's client may be touched."""
        self.why_closed = why
        self.tell = _nobody_hears
        self._lock = threading.Lock()  # another thread of the parent may hold the old one

    def check(self) -> None:
        """Raise if this session is over, or not this process's."""
        if self.why_closed is not None:
            raise type(self.why_closed)(self.why_closed.text)
        if self.failure is not None:
            raise ClusterError(f"The client's loop has failed: {self.failure!r}.") from self.failure

    def _fail_everything(self, failure: Failure) -> None:
        for object_id in list(self.inflight):
            self._resolve(object_id, failure)
        self.questions.fail(failure)
        self.large.questions.fail(failure)

    # -- what the machine asks for (loop thread)

    def _perform(self, effect: Effect) -> None:
        kind = type(effect)
        if kind is Resolve:
            self._resolve(effect.object_id, effect.value)  # type: ignore[attr-defined]
        elif kind is Reply:
            self._on_reply(effect.request, effect.message)  # type: ignore[attr-defined]
        elif kind is WriteSegment:
            self.large.questions.answer(effect.object_id, effect)  # type: ignore[attr-defined]
        else:
            raise TypeError(f"a client cannot perform {effect!r}")

    def _resolve(self, object_id: ObjectId, value: Value) -> None:
        ref = self.inflight.get(object_id) or self.shared.find(object_id)
        if ref is None:
            return
        # the value first, then who looks for it: see `fabric.refs`
        is_known = self.machine.references.value_of(object_id) is not None
        ref._is_tracked = ref._is_tracked or is_known
        ref._value = value
        self.inflight.pop(object_id, None)
        if not is_known and (ref._is_awaited or ref._is_shared) and object_id.startswith(self.me):
            # answered before the machine heard (maybe in that very turn: an entry without a value)
            # that others may ask: this thread or the one that shares the ref tells it, or both
            ref._is_tracked = True
            self.tell(Put(object_id, value))
        self.waits.notify(ref)

    def _on_reply(self, request: bytes, message: Any) -> None:
        if isinstance(message, ClientRegistered):
            self.cpus = -(-dict(message.resources).get("CPU", 0) // UNIT)
            self.registered.set()
        self.questions.answer(request, message)

    # -- questions of user threads

    def ask(self, make: Callable[[CallId], AnyMessage]) -> Any:
        """Ask the node or the control store; the answer is a message. Raises what failed."""
        request = self.next_call()
        answer = self.questions.expect(request)
        self.check()
        self.tell(Ask(request, make(request)))
        return answer.wait(self.answer_s)

    def expect_actor(self, actor_id: ActorId) -> Callable[[], Any]:
        """To be said before a named actor is made; the result waits for what became of it."""
        answer = self.questions.expect(actor_id)
        return lambda: answer.wait(self.answer_s)

    def view(self) -> View:
        """Nodes, actors and jobs of the whole fabric, now."""
        view: View = self.ask(GetView)
        return view

    # -- ids and functions

    def next_call(self) -> CallId:
        """A call id that nobody has had."""
        return call_id(self.me, self._next_number())

    def define(self, pickled: bytes, name: str, is_shared: bool) -> FunctionId:
        """Make a pickled function or class known to the machine, once."""
        function = function_id(pickled)
        known = self._defined.get(function)
        if known is None or (is_shared and not known):
            self._defined[function] = is_shared
            self.tell(DefineLocally(function, name, pickled, is_shared))
        return function

    # -- calls

    def submit(
        self,
        function: FunctionId,
        shape: Shape,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        returns: int,
        retries: int,
    ) -> Any:
        """Call a task. The refs of its results exist before anything is sent."""
        dumped, inputs, refs_held = pack(self, args, kwargs)
        call = call_id(self.me, self._next_number())
        results = self._new_refs(call, returns)
        self.tell(
            Submit(
                call,
                function,
                shape,
                dumped.packed(),
                inputs,
                tuple(dumped.refs),
                returns,
                retries,
                self.depth,
            )
        )
        del refs_held  # the machine counts them from here on
        return results

    def submit_to_actor(
        self,
        actor_id: ActorId,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        returns: int,
        retries: int,
    ) -> Any:
        """Call an actor's method, after what this client called before."""
        dumped, inputs, refs_held = pack(self, args, kwargs)
        call = call_id(self.me, self._next_number())
        results = self._new_refs(call, returns)
        self.tell(
            SubmitToActor(
                call,
                actor_id,
                method,
                dumped.packed(),
                inputs,
                tuple(dumped.refs),
                returns,
                retries,
            )
        )
        del refs_held  # the machine counts them from here on
        return results

    def _new_refs(self, call: CallId, returns: int) -> Any:
        """One ref, a list, or None: pending, and known to the loop before the call is."""
        if returns == 1:
            object_id = ObjectId(call + FIRST)
            ref = self.inflight[object_id] = ObjectRef(self, object_id)
            return ref
        refs: list[Ref] = []
        for index in range(returns):
            object_id = ObjectId(call + index.to_bytes(2, "big"))
            refs.append(ObjectRef(self, object_id))
            self.inflight[object_id] = refs[-1]
        return refs or None

    # -- puts

    def put(self, value: Any) -> Ref:
        """Keep a value: small ones in the ref itself, large ones in shared memory."""
        if isinstance(value, ObjectRef):
            raise TypeError("a ref cannot be put: it is a value's name already")
        return self.put_dumped(dump(value))

    def put_dumped(self, dumped: Dumped) -> Ref:
        """The same for what is pickled already."""
        self.check()
        object_id = ObjectId(self.next_call() + FIRST)
        if dumped.nbytes <= self.limits.inline_bytes_max:
            ref = ObjectRef[Any](self, object_id, dumped.packed())
            ref._contained = tuple(map(self.shared.revive, dumped.refs))
            return ref
        sealed = self.large.write(object_id, dumped)
        ref = ObjectRef[Any](self, object_id, sealed)
        ref._is_tracked = True
        self.tell(Put(object_id, sealed, tuple(dumped.refs)))
        return ref

    def drop(self, object_id: ObjectId) -> None:
        """From a ref's ``__del__``: the machine's entry of it may go."""
        self.tell(Drop((object_id,)))

    def promise(self) -> Ref:
        """A ref whose value this process will say."""
        object_id = ObjectId(self.next_call() + FIRST)
        ref = self.inflight[object_id] = ObjectRef[Any](self, object_id)
        return ref

    def keep_promise(self, ref: Ref, value: Dumped | Failure) -> None:
        """Say the value.

        It goes through the machine, which others may have asked for it meanwhile.
        """
        if isinstance(value, Failure):
            self.tell(Put(ref._id, value))
        elif value.nbytes <= self.limits.inline_bytes_max:
            self.tell(Put(ref._id, value.packed(), tuple(value.refs)))
        else:
            self.tell(Put(ref._id, self.large.write(ref._id, value), tuple(value.refs)))
        self.tell(Want(ref._id))

    # -- values

    def load(self, ref: Ref) -> Any:
        """The value of a ref that has one; raises it if it is a failure."""
        if self.why_closed is not None:
            self.check()
        value = ref._value
        if type(value) is bytes:
            return load(value)
        if type(value) is Sealed:
            return self.large.read(value)
        if type(value) is Failure:
            raise load_failure(value)
        raise AssertionError(f"{ref} was read before it had a value")


def _nobody_hears(event: Event) -> None:
    """Where events go when the session is over, or in a fork."""


# ---------------------------------------- the one of this process

_current: Client | None = None
_begin: Callable[[], Client] | None = None
_begin_lock = threading.RLock()


def current_client() -> Client:
    """The client of this process; if there is none, a session begins (in a worker, its client)."""
    client = _current
    if client is None:
        return _first_client()
    if client.why_closed is not None or client.failure is not None:
        client.check()
    return client


def client_or_none() -> Client | None:
    """The client of this process, if there is one."""
    return _current


def set_client(client: Client | None) -> None:
    """What `current_client` gives from now on."""
    global _current
    _current = client


def use_in_worker(factory: Callable[[], Client]) -> None:
    """This process is a worker: its client is made by that (and started) when first needed."""
    global _begin
    _begin = factory


def is_worker() -> bool:
    """Whether this process runs calls for others."""
    return _begin is not None


def _first_client() -> Client:
    global _current
    with _begin_lock:
        if _current is None:
            if _begin is None:
                from fabric.api import init

                init()
            else:
                client = _begin()
                client.start()
                _current = client
        if _current is None:
            raise AssertionError("a session began without a client")
        return _current


def _after_fork() -> None:
    global _begin, _begin_lock
    _begin_lock = threading.RLock()
    text = "The fabric cannot be used in a fork of the process that uses it."
    if _current is not None:
        _current.abandon(ForkedProcessError(text))
    elif _begin is not None:  # a fork of a worker must not speak in its name

        def refuse() -> NoReturn:
            raise ForkedProcessError(text)

        _begin = refuse


os.register_at_fork(after_in_child=_after_fork)
