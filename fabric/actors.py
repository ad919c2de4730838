"""Actors: classes whose instances live elsewhere, and the handles by which they are called.

`actor` turns a class into an `ActorClass`; `remote` on it (or `spawn`, which every type checker
understands) makes an instance in a worker of its own and returns a handle. Calls of one caller
run in the order in which they were made. A handle holds a ref to the actor: when the last handle
is gone, the actor ends after what was sent to it, unless it is detached. Restarts are not decided
here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, overload

import msgspec

from fabric.core.events import KillActor, MakeActor
from fabric.exceptions import FabricError, NameTakenError
from fabric.failures import load_failure
from fabric.ids import ActorId, ObjectId, brief
from fabric.options import (
    ACTOR_OPTIONS,
    METHOD_OPTIONS,
    check_options,
    shape_of,
    with_defaults,
)
from fabric.protocol.messages import GetNamedActor
from fabric.protocol.values import ActorSpec, Failure
from fabric.refs import ObjectRef
from fabric.runtime import client as clients
from fabric.runtime.arguments import pack
from fabric.tasks import argument_check, is_found_by_name
from fabric.tracebacks import beneath

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

Token = ObjectRef[Any]
"""The ref by which handles of one actor are counted; it never has a value of its own."""

NAME_ATTEMPTS_MAX = 10
"""``get_if_exists`` looks, makes, and looks again; an actor may die in between this often."""


class ActorMethod(Generic[P, R]):
    """A method of an actor, as its handle shows it."""

    __slots__ = ("_check_arguments", "_name", "_retries", "_returns", "_token")

    def __init__(
        self,
        token: Token,
        name: str,
        returns: int,
        retries: int,
        check_arguments: Callable[..., None] | None,
    ) -> None:
        self._token = token
        self._name = name
        self._returns = returns
        self._retries = retries
        self._check_arguments = check_arguments

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    @overload
    def remote(
        self, first: ObjectRef[Any], /, *args: ObjectRef[Any], **kwargs: ObjectRef[Any]
    ) -> ObjectRef[R]: ...
    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[R]:  # type: ignore[misc]
        """Call it; with ``num_returns=n`` the result is a list of n refs, with 0 None."""
        if self._check_arguments is not None:
            self._check_arguments(*args, **kwargs)
        try:
            client = self._token._client
            if client.why_closed is not None:
                client.check()
            ref: ObjectRef[R] = client.submit_to_actor(
                ActorId(self._token._id), self._name, args, kwargs, self._returns, self._retries
            )
            return ref
        except FabricError as error:
            error.__traceback__ = beneath(error.__traceback__)
            raise

    def options(self, **options: Any) -> ActorMethod[P, R]:
        """The same method with other options: ``num_returns``, ``max_task_retries``, ``name``."""
        checked = check_options(f"the method {self._name}", METHOD_OPTIONS, options)
        return ActorMethod(
            self._token,
            self._name,
            checked.get("num_returns", self._returns),
            checked.get("max_task_retries", self._retries),
            self._check_arguments,
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        raise TypeError(
            f"the method {self._name} runs in the actor: call it by .{self._name}.remote(…)"
        )

    def __repr__(self) -> str:
        return f"<method {self._name} of actor {brief('a', self._token._id)}>"


class ActorHandle:
    """An actor, from outside.

    ``handle.method.remote(…)`` calls it. Equal if it is the same actor.
    """

    def __init__(
        self,
        token: Token,
        class_name: str,
        retries: int,
        methods: Mapping[str, Mapping[str, Any]],
        actor_class: type | None = None,
    ) -> None:
        self._token = token
        self._class_name = class_name
        self._retries = retries
        self._methods = methods
        self._class = actor_class

    @property
    def _actor_id(self) -> ActorId:
        return ActorId(self._token._id)

    def __getattr__(self, name: str) -> ActorMethod[..., Any]:
        if name.startswith("_") and (name.endswith("__") or self._class is None):
            raise AttributeError(name)
        check = None
        if self._class is not None:
            function = getattr(self._class, name, None)
            if function is None:
                raise AttributeError(self._no_such_method(name))
            is_static = isinstance(self._class.__dict__.get(name), staticmethod | classmethod)
            check = argument_check(function, skip=0 if is_static else 1)
        options = self._methods.get(name, {})
        retries = options.get("max_task_retries", self._retries)
        method = ActorMethod[..., Any](
            self._token, name, options.get("num_returns", 1), retries, check
        )
        # kept for the next call; it holds the token and not this handle, so nothing goes in circles
        self.__dict__[name] = method
        return method

    def _no_such_method(self, name: str) -> str:
        close = difflib.get_close_matches(name, dir(self), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"the actor class {self._class_name} has no method {name!r}{hint}"

    def __dir__(self) -> list[str]:
        if self._class is None:
            return list(self._methods)
        names = dir(self._class)
        return [one for one in names if one[0] != "_" and callable(getattr(self._class, one))]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._token._id == other._token._id

    def __hash__(self) -> int:
        return hash(self._token._id)

    def __repr__(self) -> str:
        return f"<actor {self._class_name} {brief('a', self._token._id)}>"

    def _fabric_reduce_(self, note: Callable[[ObjectId], object]) -> tuple[Any, ...]:
        """How it travels: by the actor's id, which the writer notes."""
        self._token._client.check()
        self._token._client.shared.share(self._token)
        note(self._token._id)
        return self._revival()

    def __reduce__(self) -> tuple[Any, ...]:
        # pickled by somebody else, who tells nobody when the pickle is gone
        self._token._client.check()
        self._token._client.shared.share(self._token)
        self._token._client.shared.pin(self._token)
        return self._revival()

    def _revival(self) -> tuple[Any, ...]:
        return revive_handle, (self._token._id, self._class_name, self._retries, self._methods)


def revive_handle(
    actor_id: bytes, class_name: str, retries: int, methods: Mapping[str, Mapping[str, Any]]
) -> ActorHandle:
    """The handle of that actor in this process."""
    token = clients.current_client().shared.revive(ObjectId(actor_id))
    return ActorHandle(token, class_name, retries, methods)


class ActorClass(Generic[P, T]):
    """A class whose instances of type ``T`` are made elsewhere.

    Called plainly it makes one here.
    """

    def __init__(self, actor_class: Callable[P, T], given: Mapping[str, Any]) -> None:
        if not isinstance(actor_class, type):
            raise TypeError(f"an actor is made of a class, not of {actor_class!r}")
        self.__doc__ = actor_class.__doc__
        self.__module__ = actor_class.__module__
        self.__name__ = actor_class.__name__
        self.__qualname__ = actor_class.__qualname__
        self._class = actor_class
        self._given = dict(given)
        self._options = with_defaults(ACTOR_OPTIONS, given)
        self._shape = shape_of(self._options)
        self._methods = method_options(actor_class)
        self._check_arguments = argument_check(actor_class)
        self._pickled: bytes | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """An ordinary instance, here."""
        instance: T = self._class(*args, **kwargs)
        return instance

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make an actor; the result is its handle, typed as the instance for its methods' sake."""
        try:
            return self._spawn(args, kwargs)  # type: ignore[no-any-return]
        except FabricError as error:
            error.__traceback__ = beneath(error.__traceback__)
            raise

    def options(self, **options: Any) -> ActorClass[P, T]:
        """The same actor class with other options."""
        checked = check_options(f"the actor {self.__name__}", ACTOR_OPTIONS, options)
        changed = ActorClass[P, T](self._class, {**self._given, **checked})
        changed._pickled = self._pickled
        return changed

    def _spawn(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        self._check_arguments(*args, **kwargs)
        name = self._options["name"]
        if name is None or not self._options["get_if_exists"]:
            return self._make(args, kwargs)
        for _ in range(NAME_ATTEMPTS_MAX):
            try:
                return get_actor(name, self._options["namespace"])
            except ValueError:  # nobody has that name yet
                try:
                    return self._make(args, kwargs)
                except NameTakenError:  # somebody was faster
                    continue
        raise NameTakenError(f"Actors of the name {name!r} come and go too fast to get one.")

    def _make(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ActorHandle:
        client = clients.current_client()
        dumped, inputs, refs_held = pack(client, args, kwargs)
        token = client.shared.new_token(ObjectId(client.next_call() + clients.FIRST))
        actor_id = ActorId(token._id)
        options = self._options
        job = client.job
        if options["namespace"]:
            job = msgspec.structs.replace(job, namespace=options["namespace"])
        spec = ActorSpec(
            actor_id,
            client.define(self._pickle(), self.__name__, is_shared=True),
            self.__name__,
            job,
            self._shape,
            dumped.packed(),
            (),
            tuple(dumped.refs),
            name=options["name"] or "",
            is_detached=options["lifetime"] == "detached",
            restarts_max=options["max_restarts"],
            max_concurrency=options["max_concurrency"],
        )
        became = client.expect_actor(actor_id) if spec.name else None
        client.tell(MakeActor(spec, inputs))
        del refs_held  # the machine counts them from here on
        if became is not None:  # whether the name was free is known before the handle is
            view = became().actor
            if view.failure is not None and view.failure.kind == "name_taken":
                raise load_failure(view.failure)
        return ActorHandle(
            token, self.__name__, options["max_task_retries"], self._methods, self._class
        )

    def _pickle(self) -> bytes:
        if self._pickled is None:
            from fabric.serialization import dump_function

            self._pickled = dump_function(self if is_found_by_name(self) else self._class)
        return self._pickled

    def __reduce__(self) -> str | tuple[Any, ...]:
        if is_found_by_name(self):
            return self.__qualname__
        return ActorClass, (self._class, self._given)

    def __mro_entries__(self, bases: object) -> NoReturn:
        raise TypeError(
            f"{self.__name__} is an actor class: inherit from a plain class, and make both actors"
        )

    def __repr__(self) -> str:
        return f"<actor class {self.__name__}>"


def method_options(actor_class: type) -> dict[str, dict[str, Any]]:
    """What `method` said of the methods of a class."""
    found: dict[str, dict[str, Any]] = {}
    for one in reversed(actor_class.__mro__):
        for name, function in vars(one).items():
            options = getattr(function, "__fabric_method__", None)
            if options:
                found[name] = options
    return found


@overload
def actor(actor_class: Callable[P, T], /) -> ActorClass[P, T]: ...
@overload
def actor(**options: Any) -> Callable[[Callable[P, T]], ActorClass[P, T]]: ...
def actor(*classes: Callable[..., Any], **options: Any) -> Any:
    """Make a class an actor class: ``@actor`` or ``@actor(max_restarts=2)``.

    Options: ``num_cpus`` (0), ``num_gpus``, ``resources``, ``memory``, ``max_restarts`` (0; -1
    without end), ``max_task_retries`` (0), ``max_concurrency`` (1), ``name``, ``namespace``,
    ``lifetime`` (``"detached"`` outlives its driver), ``get_if_exists``.
    """
    checked = check_options("an actor", ACTOR_OPTIONS, options)
    if classes:
        (actor_class,) = classes
        return ActorClass(actor_class, checked)
    return lambda actor_class: ActorClass(actor_class, checked)


def spawn(actor_class: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """``actor_class.remote(…)``, typed for every checker."""
    if not isinstance(actor_class, ActorClass):
        raise TypeError(f"{actor_class!r} is not an actor class: decorate it with @actor")
    return actor_class.remote(*args, **kwargs)  # type: ignore[no-any-return]


class Method(Generic[S, P, R]):
    """How type checkers see a method under `method`; it exists for them only."""

    def __get__(self, instance: S, owner: type[S]) -> ActorMethod[P, R]:
        raise NotImplementedError


@overload
def method(function: Callable[Concatenate[S, P], R], /) -> Method[S, P, R]: ...
@overload
def method(
    **options: Any,
) -> Callable[[Callable[Concatenate[S, P], R]], Method[S, P, R]]: ...
def method(*functions: Callable[..., Any], **options: Any) -> Any:
    """Options of a method (``num_returns``, ``max_task_retries``), and types for its callers."""
    checked = check_options("a method", METHOD_OPTIONS, options)

    def mark(function: Any) -> Any:
        function.__fabric_method__ = checked
        return function

    return mark(functions[0]) if functions else mark


def get_actor(name: str, namespace: str | None = None) -> Any:
    """The handle of the living actor of that name; `ValueError` if there is none.

    The handle counts like any other: the actor lives while there is one, unless it is detached.
    """
    client = clients.current_client()
    space = namespace or client.job.namespace
    answer = client.ask(lambda request: GetNamedActor(request, name, space))
    spec: ActorSpec | None = answer.spec
    token = None if spec is None else client.shared.revive(ObjectId(spec.actor_id))
    if spec is not None and token is not None and not spec.is_detached:
        client.shared.register([token._id], client.answer_s)
    if spec is None or token is None or type(token._value) is Failure:  # its last handle is gone
        raise ValueError(f"no living actor has the name {name!r} in the namespace {space!r}")
    return ActorHandle(token, spec.class_name, 0, {})


def kill(handle: Any, *, no_restart: bool = True) -> None:
    """End an actor now; what it runs and what waits for it fails with `ActorDiedError`."""
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"kill ends actors; {handle!r} is no handle of one")
    client = handle._token._client
    client.check()
    why = Failure("actor_died", f"This {handle._class_name} was ended by `fabric.kill`.")
    client.tell(KillActor(handle._actor_id, why, not no_restart))
