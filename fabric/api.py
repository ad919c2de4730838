"""The verbs of a user's program: begin and end a session, get, put, wait, and look around.

Everything here works the same in a driver and inside a task. A session begins by itself at the
first remote call; `init` says how. Which client answers is asked of `fabric.runtime.client` each
time, so no object of a session is kept here but the private fabric that has to be ended.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fabric.config import load_limits
from fabric.context import ActorExit, running
from fabric.exceptions import AlreadyRunningError, ClusterError, FabricError
from fabric.interrupts import Held
from fabric.options import check_totals, resources_of
from fabric.protocol.values import Failure, NodeView
from fabric.refs import ObjectRef
from fabric.runtime import client as clients
from fabric.runtime import waits
from fabric.tracebacks import beneath

if TYPE_CHECKING:
    from fabric.runtime.start import PrivateFabric

T = TypeVar("T")
Ref = ObjectRef[Any]

_private: PrivateFabric | None = None
_begun_with: dict[str, Any] = {}
_session_lock = threading.RLock()


class Context:
    """What `init` returns: where the session is; ends it when used in a ``with`` statement."""

    def __init__(self, client: clients.Client) -> None:
        self._client = client

    @property
    def cluster(self) -> str:
        """The name of the cluster, or of the private fabric."""
        return self._client.place.cluster

    @property
    def namespace(self) -> str:
        """Where names of actors are looked up unless told otherwise."""
        return self._client.job.namespace

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if clients.client_or_none() is self._client:
            shutdown()

    def __repr__(self) -> str:
        return f"<fabric session in {self.cluster}>"


# ---------------------------------------- sessions


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    namespace: str | None = None,
    log_to_driver: bool = True,
    inline: bool = False,
) -> Context:
    """Begin a session: in the cluster named, else the one FABRIC_ADDRESS names, else a private
    fabric.

    ``"auto"`` is the cluster that `fabric up` started on this machine. ``num_cpus``, ``num_gpus``,
    ``resources`` and ``object_store_memory`` (bytes) describe this machine to a private fabric.
    ``log_to_driver`` has what workers print appear here, with ``(name node/pid)`` before each line.
    Saying the same twice is fine; something else while a session goes on is an
    `AlreadyRunningError`.

    With ``inline`` (or FABRIC_MODE=inline) there is no fabric, whatever the address: calls run in
    this very process, each where it is made, one at a time, and `breakpoint` works. Values, copies
    and errors are the same; what needs more is a `NeedsConcurrencyError`.
    """
    where = os.environ.get("FABRIC_ADDRESS", "") if address is None else address
    asked = {
        "address": where,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": dict(resources) if resources is not None else None,
        "object_store_memory": object_store_memory,
        "namespace": namespace,
        "log_to_driver": None if log_to_driver else False,
        "inline": inline or bool(os.environ.get("FABRIC_MODE")) or None,
    }
    totals = check_totals(num_cpus, num_gpus, resources)
    with _session_lock:
        client = clients.client_or_none()
        if _is_in_call():
            return Context(clients.current_client())
        if client is not None and client.why_closed is None:
            _refuse_change(asked, is_address_given=address is not None)
            return Context(client)
        _begun_with.clear()
        _begun_with.update(asked)
        return Context(_begin(where, asked, totals))


def _is_in_call() -> bool:
    """Whether the session is not this code's own: it runs in a worker, or inside an inline call."""
    return clients.is_worker() or running.depth >= 0


def _refuse_change(asked: Mapping[str, Any], is_address_given: bool) -> None:
    for name, value in asked.items():
        is_asked = is_address_given if name == "address" else value is not None
        if is_asked and value != _begun_with.get(name):
            raise AlreadyRunningError(
                f"This process has begun a session with {name}={_begun_with.get(name)!r}, and"
                f" {name}={value!r} would be another."
            )


def _begin(where: str, asked: Mapping[str, Any], totals: dict[str, float]) -> clients.Client:
    """A session or none: an interrupt waits until what was started is ended, or is known here."""
    with Held() as held:
        return _begin_held(where, asked, totals, held)


def _begin_held(
    where: str, asked: Mapping[str, Any], totals: dict[str, float], held: Held
) -> clients.Client:
    global _private
    if asked["inline"]:
        return _begin_inline(asked["namespace"], totals)
    from fabric.runtime import start

    limits = load_limits()
    place = start.place_of(where)
    private = None
    if place is None:
        num_cpus, num_gpus = totals.pop("CPU", None), totals.pop("GPU", None)
        store_bytes = asked["object_store_memory"]
        private = start.start_private(num_cpus, num_gpus, totals, store_bytes, limits)
        place = private.place
    elif any(asked[name] is not None for name in ("num_cpus", "num_gpus", "resources")):
        raise ClusterError(
            "The resources of a cluster that runs cannot be chosen by `init`.",
            advice="Leave them out, or give them to `fabric up`.",
        )
    client = start.new_driver(
        place, asked["namespace"], limits, wants_output=asked["log_to_driver"] is None
    )
    try:
        start.connect(client, private, held.check)
    except BaseException:
        client.close()
        if private is not None:
            held.on_interrupt = private.hurry  # the second one
            private.end()
        raise
    _private = private
    clients.set_client(client)
    return client


def _begin_inline(namespace: str | None, totals: dict[str, float]) -> clients.Client:
    from fabric.runtime.inline import new_inline_client

    num_cpus, num_gpus = totals.pop("CPU", None), totals.pop("GPU", None)
    client = new_inline_client(namespace, num_cpus, num_gpus, totals, load_limits())
    client.start()
    clients.set_client(client)
    return client


def shutdown() -> None:
    """End the session: no process, socket, file or shared memory of it is left. Idempotent.

    An interrupt makes it return at once, and what is still ending goes on by itself.
    """
    global _private
    with _session_lock, Held() as held:
        client = clients.client_or_none()
        if client is None or _is_in_call():
            return
        clients.set_client(None)
        private, _private = _private, None
        if private is not None:
            held.on_interrupt = private.hurry
        client.close()
        if private is not None:
            private.end()


def _end_at_exit() -> None:
    """Python would ignore an interrupt here, and exit as if there had been none."""
    try:
        shutdown()
    except KeyboardInterrupt:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None
                stream.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)


atexit.register(_end_at_exit)
atexit.register(_end_at_exit)  # an interrupt at the first instruction of one leaves the other


def _forget_in_child() -> None:
    """In a fork the session is over, and another thread of the parent may have had the lock."""
    global _private, _session_lock
    _session_lock = threading.RLock()
    if _private is not None:
        _private.disown()
        _private = None


os.register_at_fork(after_in_child=_forget_in_child)


def is_initialized() -> bool:
    """Whether this process has a session."""
    client = clients.client_or_none()
    return clients.is_worker() or (client is not None and client.why_closed is None)


# ---------------------------------------- values


@overload
def get(refs: ObjectRef[T], timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], timeout: float | None = None) -> list[T]: ...
def get(refs: Any, timeout: float | None = None) -> Any:
    """The value of a ref, or of each ref of a list in the list's order.

    Waits up to ``timeout`` seconds, then raises `GetTimeoutError`; 0 only looks. The first failure
    is raised at once, without waiting for the others.
    """
    try:
        return _get(refs, timeout)
    except FabricError as error:
        error.__traceback__ = beneath(error.__traceback__)
        raise


def _get(refs: Any, timeout: float | None) -> Any:
    if isinstance(refs, ObjectRef):
        return refs.get(timeout)
    gather = getattr(type(refs), "_gather", None)  # what `map` returns
    if gather is not None:
        return gather(refs, timeout)
    refs = _checked(refs, "get")
    if not refs:
        return []
    _raise_failed(refs)
    waits.wait_for_all(refs[0]._client, refs, timeout)
    _raise_failed(refs)
    return [ref._load() for ref in refs]


def _raise_failed(refs: list[Ref]) -> None:
    for ref in refs:
        if type(ref._value) is Failure:
            ref._load()


def _checked(refs: Any, verb: str) -> list[Ref]:
    if not isinstance(refs, list | tuple):
        raise TypeError(f"{verb} takes a ref or a list of refs, not {type(refs).__name__}")
    listed = list(refs)
    if set(map(type, listed)) - {ObjectRef}:  # a tenth of the time of looking at each
        for ref in listed:
            if not isinstance(ref, ObjectRef):
                raise TypeError(f"{verb} takes refs; the list has {ref!r} in it")
    return listed


def put(value: T) -> ObjectRef[T]:
    """Keep a value, unchangeable from now on, and return a ref to it."""
    try:
        ref: ObjectRef[T] = clients.current_client().put(value)
    except FabricError as error:
        error.__traceback__ = beneath(error.__traceback__)
        raise
    return ref


def wait(
    refs: list[ObjectRef[T]],
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until ``num_returns`` of the refs are ready (or failed), or ``timeout`` seconds are
    over.

    Returns ``(ready, not_ready)``, both in the order of ``refs``; never more than ``num_returns``
    are ready. ``fetch_local`` makes no difference on one machine.
    """
    if not isinstance(refs, list):
        raise TypeError(f"wait takes a list of refs, not {type(refs).__name__}")
    checked = _checked(refs, "wait")
    if not checked:
        return [], []
    for client in dict.fromkeys(ref._client for ref in checked):
        client.check()
    if len(set(checked)) != len(checked):
        raise ValueError("wait takes each ref once, and one of these is there twice")
    if not 0 < num_returns <= len(checked):
        most = "1" if len(checked) == 1 else f"between 1 and {len(checked)}"
        raise ValueError(f"num_returns must be {most}, as many refs are given, not {num_returns}")
    ready = [ref for ref in checked if ref._value is not None]
    if len(ready) < num_returns:
        pending = {ref for ref in checked if ref._value is None}
        allowed = len(checked) - num_returns
        waits.wait_for_some(checked[0]._client, pending, allowed, timeout, ends_on_failure=False)
        ready = [ref for ref in checked if ref._value is not None]
    ready = ready[:num_returns]
    chosen = set(ready)
    return ready, [ref for ref in checked if ref not in chosen]


def cancel(ref: ObjectRef[Any], force: bool = False, recursive: bool = True) -> None:
    """Cancel the call that is to make this value; `get` then raises `TaskCancelledError`.

    A call that has not begun never does. One that runs gets a KeyboardInterrupt, and a task that
    still runs ``FABRIC_CANCEL_GRACE_S`` (5) seconds later is ended with its worker; ``force`` does
    that at once. An actor is never ended for a call of it, so there ``force`` is a `ValueError`.
    ``recursive`` cancels what the call has called itself, too. A finished call is left alone.
    """
    from fabric.runtime import cancels

    if not isinstance(ref, ObjectRef):
        raise TypeError(f"cancel takes a ref, not {type(ref).__name__}")
    cancels.cancel(ref._client, ref, force, recursive)


class Completions(Iterable[ObjectRef[T]]):
    """Refs as they become ready, by ``for`` or by ``async for``."""

    def __init__(self, refs: list[ObjectRef[T]], timeout: float | None) -> None:
        self._refs = refs
        self._timeout = timeout

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return waits.completed(self._refs, self._timeout)

    def __aiter__(self) -> AsyncIterator[ObjectRef[T]]:
        return waits.completed_in_loop(self._refs)

    def __len__(self) -> int:
        return len(self._refs)


def as_completed(refs: Iterable[ObjectRef[T]], timeout: float | None = None) -> Completions[T]:
    """The refs in the order in which they become ready; each once.

    ``timeout`` is for all of them.
    """
    return Completions(_checked(list(refs), "as_completed"), timeout)


# ---------------------------------------- looking around


def nodes() -> list[dict[str, Any]]:
    """The nodes of the fabric: what each has, what of it is free, and whether it lives.

    ``NodeID``, ``Alive`` and ``Resources`` are there for programs written for Ray.
    """
    return [_node(view) for view in clients.current_client().view().nodes]


def _node(view: NodeView) -> dict[str, Any]:
    resources = resources_of(view.resources)
    return {
        "node_id": view.node.hex(),
        "state": view.state,
        "host": view.host,
        "pid": view.pid,
        "resources": resources,
        "available": resources_of(view.available),
        "workers": view.workers,
        "NodeID": view.node.hex(),
        "Alive": view.state == "alive",
        "Resources": resources,
    }


def _total(amounts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in amounts:
        for name, amount in one.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def cluster_resources() -> dict[str, float]:
    """What all living nodes have together."""
    return _total(node["resources"] for node in nodes() if node["Alive"])


def available_resources() -> dict[str, float]:
    """What of it is free, as the nodes last said."""
    return _total(node["available"] for node in nodes() if node["Alive"])


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """Where this code runs. Ids are hex; None where there is nothing of the kind."""

    job_id: str
    node_id: str
    worker_id: str
    namespace: str
    task_id: str | None
    task_name: str | None
    attempt: int
    actor_id: str | None
    actor_class: str | None

    def get_job_id(self) -> str:
        """Ray's spelling of ``job_id``."""
        return self.job_id

    def get_node_id(self) -> str:
        """Ray's spelling of ``node_id``."""
        return self.node_id

    def get_worker_id(self) -> str:
        """Ray's spelling of ``worker_id``."""
        return self.worker_id

    def get_task_id(self) -> str | None:
        """Ray's spelling of ``task_id``."""
        return self.task_id

    def get_actor_id(self) -> str | None:
        """Ray's spelling of ``actor_id``."""
        return self.actor_id


def get_runtime_context() -> RuntimeContext:
    """Where this code runs: the job, the node, and the call if it is one."""
    client = clients.current_client()
    now = running
    return RuntimeContext(
        client.job.job.hex(),
        client.place.node[2:],
        client.me.hex(),
        client.job.namespace,
        now.call_id.hex() if now.call_id else None,
        now.task or None,
        now.attempt,
        now.actor_id.hex() if now.actor_id else None,
        now.class_name or None,
    )


def exit_actor() -> None:
    """End the actor whose method calls this; the calls behind it fail, and it is not restarted."""
    if running.actor_id is None:
        raise TypeError("exit_actor ends the actor whose method calls it, and this is none")
    raise ActorExit
