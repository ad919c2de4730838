"""Running user code: what a worker does between taking a call and having its values.

It knows functions by hash, the job's environment, and the actor's instance if the worker is one. It
turns inputs into arguments and results into images; where those go (inline or sealed), and when a
call runs, is not decided here. Every error of user code becomes a `Failure`; only `SystemExit` ends
the process, as it would anywhere: the worker then leaves, and its node tells with what code.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from fabric.context import ActorExit, running
from fabric.core.effects import BecomeActor, Run
from fabric.exceptions import ObjectLostError, SerializationError
from fabric.failures import dump_failure, failure_of
from fabric.ids import FunctionId
from fabric.images import Dumped
from fabric.protocol.messages import DefineFunction, DefineJob
from fabric.protocol.values import Failure, JobSpec, Sealed, Value
from fabric.runtime import stdio
from fabric.runtime.marks import encode_name
from fabric.runtime.segments import SegmentMoved, open_segment, segment_path
from fabric.serialization import dump, load, load_arguments, load_function
from fabric.tracebacks import brief_error, type_name

Outcome = Dumped | Failure
"""One result of a call: an image of the value, or why there is none."""

EXITED = Failure("actor_died", "the actor ended itself by `fabric.exit_actor()`")

NOT_FOUND = (
    "The worker could not load the call: what it names must be importable there, and is looked for"
    " in the driver's `sys.path` and working directory."
)
LINES_OF_ACTOR = 8
"""What an `ActorDiedError` prints around the error of a constructor."""


class Execution:
    """See the module."""

    def __init__(self, node: str, store_directory: str, say_name: Callable[[bytes], None]) -> None:
        self.node = running.node = node
        self.store_directory = store_directory
        self.job: JobSpec | None = None
        self.instance: Any = None
        self.has_exited = False
        self.exit: SystemExit | None = None  # user code said so: the process is to end
        self.result: Any = None  # of the last call: refs in it live until they are handed over
        self._say_name = say_name  # for output that does not say whose it is
        self._said = ""
        self._is_loading = False  # of a function or of arguments: what fails then is no user's line
        self._names: dict[FunctionId, str] = {}
        self._pickled: dict[FunctionId, bytes] = {}
        self._loaded: dict[FunctionId, Callable[..., Any]] = {}

    def learn(self, message: DefineJob | DefineFunction) -> None:
        """A job's environment, or a function that calls will name."""
        if isinstance(message, DefineFunction):
            self._names[message.function] = message.name
            self._pickled[message.function] = message.pickled
            return
        spec = message.spec
        if self.job is not None:
            return
        self.job = spec
        known = dict.fromkeys(sys.path)
        sys.path[:0] = [
            path for path in spec.sys_path if path not in known and os.path.exists(path)
        ]
        if os.path.isdir(spec.working_dir):
            os.chdir(spec.working_dir)

    def run(self, run: Run) -> list[Outcome]:
        """Run that call; one outcome for each result, and none if the code said `sys.exit`."""
        call = run.call
        name = call.method or self._names.get(call.function, "")
        if call.method and running.class_name:
            name = f"{running.class_name}.{call.method}"
        running.call_id, running.task, running.attempt = call.call_id, name, call.attempt
        running.depth = run.depth
        if name is not self._said and not call.method:
            self._show_name(name)
        try:
            if call.method:
                function = getattr(self.instance, call.method)
            else:
                function = self._loaded.get(call.function) or self._load(call.function)
            self.result = self._call(function, call.args, call.inputs)
            return _outcomes(self.result, call.returns, name, function)
        except ActorExit:
            self.has_exited = True
            return [EXITED] * max(call.returns, 1)
        except SystemExit as end:
            self.exit = end
            return []
        except BaseException as error:
            failure = self._failure(error, name)
            return [failure] * call.returns
        finally:
            if stdio.pending:
                stdio.flush_call()
            running.call_id = None

    def _show_name(self, name: str) -> None:
        self._said = name
        self._say_name(encode_name(name))

    def make_actor(self, effect: BecomeActor) -> Failure | None:
        """Run the constructor; why it failed, if it did."""
        spec = effect.spec
        running.actor_id, running.class_name = spec.actor_id, spec.class_name
        running.restarts = effect.incarnation - 1
        running.task, running.depth = f"{spec.class_name}.__init__", 0
        self._show_name(spec.class_name)
        try:
            actor_class = self._load(spec.function)
            self.instance = self._call(actor_class, spec.args, spec.inputs)
        except SystemExit as end:
            self.exit = end
        except BaseException as error:
            return self._failure(error, running.task, "actor_died")
        finally:
            stdio.flush_call()
        return None

    def _load(self, function: FunctionId) -> Callable[..., Any]:
        self._is_loading = True
        loaded: Any = load_function(self._pickled[function])
        self._is_loading = False
        # a task or an actor class pickled by name comes back decorated: the plain one runs
        plain: Callable[..., Any] = getattr(loaded, "__wrapped__", loaded)
        self._loaded[function] = plain
        return plain

    def _call(self, function: Callable[..., Any], pickled: bytes, inputs: tuple[Value, ...]) -> Any:
        self._is_loading = True
        values = [self._value(one) for one in inputs] if inputs else ()
        args, kwargs = load_arguments(pickled, (), values)
        self._is_loading = False
        return function(*args, **kwargs)

    def _value(self, value: Value) -> Any:
        if isinstance(value, Sealed):
            try:
                return open_segment(
                    segment_path(self.store_directory, value.segment), value.generation
                )
            except SegmentMoved as error:
                raise ObjectLostError(
                    f"An argument's segment holds it no longer: {error}."
                ) from error
        return load(value)  # type: ignore[arg-type]  # calls with failed inputs are never sent

    def _failure(self, error: BaseException, name: str, kind: str = "task") -> Failure:
        if self._is_loading and isinstance(error, (ImportError, AttributeError)):
            error.add_note(NOT_FOUND)
        self._is_loading = False
        lines_beside = 0 if kind == "task" else LINES_OF_ACTOR
        failure = dump_failure(
            error, task=name, node=self.node, pid=os.getpid(), lines_beside=lines_beside
        )
        if kind == "task":
            return failure
        text = f"the constructor of {running.class_name} raised {brief_error(error)}"
        return Failure(kind, text, failure.pickled)


def _outcomes(result: Any, returns: int, name: str, function: Callable[..., Any]) -> list[Outcome]:
    if returns == 1:
        try:
            return [dump(result, "result")]
        except SerializationError:
            mend = getattr(function, "_fabric_mend_", None)  # of many results only one is bad
            if mend is None:
                raise
            return [dump(mend(result))]
    if returns == 0:
        return []
    values = list(result) if isinstance(result, (tuple, list)) else None
    if values is None or len(values) != returns:
        raise ValueError(
            f"{name} has num_returns={returns}, but returned {_returned(result, values)}"
        )
    return [_outcome(value, f"result[{index}]") for index, value in enumerate(values)]


def _returned(result: Any, values: list[Any] | None) -> str:
    """What came in place of a tuple or list of the right length."""
    if values is not None:
        return f"{len(values)} value{'' if len(values) == 1 else 's'}"
    return "None" if result is None else f"one value, of type {type_name(type(result))}"


def _outcome(value: Any, what: str) -> Outcome:
    try:
        return dump(value, what)
    except SerializationError as error:
        return failure_of(error)
