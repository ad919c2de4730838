"""Tasks: functions that can be called elsewhere.

`task` turns a function into a `Task`, which stays a function when it is called and gives an
`ObjectRef` at once when it is called by `remote`. Wrong arguments are a `TypeError` at the
caller. The function is pickled once, at its first remote call. Where and when it runs is not
known here.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

from fabric.exceptions import FabricError
from fabric.ids import FunctionId
from fabric.options import TASK_OPTIONS, check_options, shape_of, with_defaults
from fabric.refs import ObjectRef
from fabric.runtime import client as clients
from fabric.tracebacks import beneath

P = ParamSpec("P")
R = TypeVar("R")

NO_CLIENT = object()


class Task(Generic[P, R]):
    """A function of parameters ``P`` and result ``R`` that can be called elsewhere."""

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], given: Mapping[str, Any]) -> None:
        if not callable(function):
            raise TypeError(f"a task is made of a function, not of {function!r}")
        functools.update_wrapper(self, function)
        self._function = function
        self._given = dict(given)
        options = with_defaults(TASK_OPTIONS, given)
        self._shape = shape_of(options)
        self._returns: int = options["num_returns"]
        self._retries: int = options["max_retries"]
        self._timeout_s: float | None = options["timeout_s"]
        self._name: str = options["name"] or getattr(function, "__qualname__", repr(function))
        self._check_arguments = argument_check(function)
        self._pickled: bytes | None = None
        self._client: object = NO_CLIENT
        self._id = FunctionId(b"")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """An ordinary call, here and now."""
        return self._function(*args, **kwargs)

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    @overload
    def remote(
        self, first: ObjectRef[Any], /, *args: ObjectRef[Any], **kwargs: ObjectRef[Any]
    ) -> ObjectRef[R]: ...
    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[R]:  # type: ignore[misc]
        """Call it elsewhere. With ``num_returns=n`` the result is a list of n refs, with 0 None."""
        self._check_arguments(*args, **kwargs)
        try:
            client = clients._current
            if client is None or client is not self._client or client.why_closed is not None:
                client = self._define()
            ref: ObjectRef[R] = client.submit(
                self._id, self._shape, args, kwargs, self._returns, self._retries, self._timeout_s
            )
            return ref
        except FabricError as error:
            error.__traceback__ = beneath(error.__traceback__)
            raise

    def options(self, **options: Any) -> Task[P, R]:
        """The same task with other options: ``square.options(num_cpus=2).remote(3)``."""
        checked = check_options(f"the task {self._name}", TASK_OPTIONS, options)
        changed = Task(self._function, {**self._given, **checked})
        changed._pickled = self._pickled
        return changed

    def map(self, *iterables: Any, chunk: int | None = None) -> Sequence[ObjectRef[R]]:
        """One call for each item (or for each tuple of items of several iterables), many in a
        message.

        The refs are made when they are looked at. ``chunk`` calls travel and run together; left
        out, it follows how long the calls take.
        """
        from fabric.mapping import map_calls

        refs: Sequence[ObjectRef[R]] = map_calls(self, iterables, chunk)
        return refs

    def _define(self) -> clients.Client:
        """Make the function known to the client of this process."""
        client = clients.current_client()
        if self._pickled is None:
            from fabric.serialization import dump_function

            # by name where the name leads here, so that the worker's module is the module's own
            self._pickled = dump_function(self if is_found_by_name(self) else self._function)
        self._id = client.define(self._pickled, self._name, is_shared=False)
        self._client = client
        return client

    def __reduce__(self) -> str | tuple[Any, ...]:
        if is_found_by_name(self):
            return self.__qualname__
        return Task, (self._function, self._given)

    def __repr__(self) -> str:
        return f"<task {self._name}>"


def is_found_by_name(thing: Any) -> bool:
    """Whether a worker that imports the module finds this very thing under its name."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module in (None, "__main__") or name is None or "<" in name:
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not thing:
        return False
    by_value: Collection[str] = ()
    if "cloudpickle" in sys.modules:
        import cloudpickle  # waits if another thread is just importing it

        by_value = cloudpickle.list_registry_pickle_by_value()
    parts = module.split(".")
    return not any(".".join(parts[: n + 1]) in by_value for n in range(len(parts)))


def argument_check(function: Callable[..., Any], skip: int = 0) -> Callable[..., None]:
    """A function of the same parameters that does nothing: calling it checks arguments in 0.1 µs.

    ``skip`` parameters are left out at the front (``self``). What has no signature is not checked.
    """
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # some builtins do not tell
        return lambda *args, **kwargs: None
    parameters = list(signature.parameters.values())[skip:]
    return compiled_check(
        getattr(function, "__name__", "function"),
        tuple((one.name, one.kind, one.default is not one.empty) for one in parameters),
    )


def compiled_check(name: str, parameters: tuple[tuple[str, Any, bool], ...]) -> Callable[..., None]:
    """The function itself, compiled from names and kinds only: no annotation or default gets in."""
    words: list[str] = []
    kinds = [kind for _, kind, _ in parameters]
    for index, (parameter, kind, has_default) in enumerate(parameters):
        if kind is inspect.Parameter.VAR_POSITIONAL:
            words.append("*" + parameter)
            continue
        if kind is inspect.Parameter.VAR_KEYWORD:
            words.append("**" + parameter)
            continue
        if kind is inspect.Parameter.KEYWORD_ONLY and not any(
            before in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
            for before in kinds[:index]
        ):
            words.append("*")
        words.append(parameter + ("=None" if has_default else ""))
        is_last_positional_only = kind is inspect.Parameter.POSITIONAL_ONLY and (
            index + 1 == len(kinds) or kinds[index + 1] is not kind
        )
        if is_last_positional_only:
            words.append("/")
    made: dict[str, Any] = {}
    exec(f"def check({', '.join(words)}): pass", made)
    check: Callable[..., None] = made["check"]
    check.__name__ = check.__qualname__ = name
    return check


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(*functions: Callable[..., Any], **options: Any) -> Any:
    """Make a function a task: ``@task`` or ``@task(num_cpus=2, max_retries=0)``.

    Options: ``num_cpus`` (1), ``num_gpus``, ``resources``, ``memory`` (bytes), ``num_returns`` (1),
    ``max_retries`` (3, after crashes of the worker; -1 without end), ``timeout_s`` (each run that
    takes longer is cancelled), ``name``.
    """
    checked = check_options("a task", TASK_OPTIONS, options)
    if functions:
        (function,) = functions
        if isinstance(function, type):
            raise TypeError(f"{function.__name__} is a class: make it an actor with @actor")
        return Task(function, checked)
    return lambda function: Task(function, checked)


def remote(*things: Any, **options: Any) -> Any:
    """Ray's spelling: a function becomes a task, a class an actor class.

    Types are lost on the way; `task` and `fabric.actor` keep them.
    """
    from fabric.actors import actor

    def make(thing: Any) -> Any:
        decorate: Any = actor if isinstance(thing, type) else task
        return decorate(**options)(thing)

    return make(things[0]) if things else make
