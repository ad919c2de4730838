"""Failures: what an exception becomes on its way from a worker to who asked for the result.

In the worker the exception is pickled with its chain, notes and the user's frames, and unpickled
again at once: what does not come back the same is tried once more without what cannot travel, and
at last only its type's name, its text and its traceback as text go. So an odd exception costs
details, never the answer. Where it is raised it is a `TaskError` and the user's own type at once.
Only drivers and workers unpickle; a daemon reads the texts at most.
"""

import contextlib
import functools
import io
import pickle
import reprlib
from types import FunctionType, MemberDescriptorType, TracebackType
from typing import Any, cast

import msgspec

from fabric.exceptions import ADVICES, FAILURES, FabricError, TaskError
from fabric.protocol.values import Crash, Failure
from fabric.tracebacks import (
    LINES_MAX,
    Frames,
    Plan,
    brief_error,
    cut,
    frames_of,
    notes_of,
    plan_frames,
    text_of,
    traceback_of,
    traceback_text,
    type_name,
)

EXCEPTION_BYTES_MAX = 1024 * 1024
"""A larger pickle of an exception loses its largest attributes: it travels inside a message."""

ATTRIBUTE_BYTES_MAX = 64 * 1024
TEXT_CHARS_MAX = 2_000
"""A text that has to be cut is cut to this: the rest is lost, and a page says what it was about."""

NOTES_MAX = 20
SHORT = reprlib.Repr()
SHORT.maxother = SHORT.maxstring = SHORT.maxlong = 200
EXCEPTIONS_MAX = 32
"""Exceptions of one chain or group that travel with their own chain."""

TRIES = ((False, EXCEPTIONS_MAX), (True, EXCEPTIONS_MAX), (True, 1))
"""How an exception is pickled: whether carefully, and how many with their chain."""

DUAL_TYPES_MAX = 256
HEAP_TYPE = 1 << 9
"""The flag of classes that were made by a class statement."""

DETAILED = ("worker_crashed", "out_of_memory", "store_full", "store_too_small")
"""Kinds whose failures carry figures instead of a pickled exception."""

NOT_RAISED = (StopIteration, StopAsyncIteration)
"""Types that would mean something else to the code around `get`."""

MADE_OF = "_fabric_made_of"
"""On a class that is also a `TaskError`: the user's class."""

CAUSE = "_fabric_cause"
"""On its instances: the user's exception, also where the user calls something else ``cause``."""

HOPS = "_fabric_hops"
"""On them, too: how many tasks have passed the error on."""

PASSED_ON = "passed on by"
NODE_CHARS = 10
"""Of a node's address, ``n:1f3a9c00``: what people need to find it."""


class Raised(msgspec.Struct, array_like=True):
    """What travels of an exception: texts that anybody may read, and a pickle that may be empty."""

    type_name: str
    text: str
    traceback: str
    task: str
    node: str
    pid: int
    exception: bytes


Chain = tuple[BaseException | None, BaseException | None, bool]
"""Cause, context, and whether the context is not to be shown."""

State = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any], Chain, Frames]
"""Arguments, attributes, members of C and slots, chain, frames."""


# -- in the worker


def dump_failure(
    error: BaseException, *, task: str = "", node: str = "", pid: int = 0, lines_beside: int = 0
) -> Failure:
    """What a task raised, ready to travel; this never raises because of the exception.

    ``lines_beside`` is how many lines will be printed around it, if it is to be a cause.
    """
    try:
        text = traceback_text(error)
    except BaseException as failed:  # user code runs in there: properties, odd notes, lazy modules
        text = f"(no traceback: {type(failed).__name__})"
    raised = Raised(
        type_name(type(error)),
        cut(text_of(error), TEXT_CHARS_MAX),
        text,
        task,
        node,
        pid,
        _pickled(error, lines_beside),
    )
    return Failure("task", brief_error(error), msgspec.msgpack.encode(raised))


def failure_of(error: FabricError) -> Failure:
    """An error of the fabric's own as it travels: its kind and its sentence."""
    for kind, known in FAILURES.items():
        if type(error) is known and error.advice == ADVICES.get(kind, known.advice):
            return Failure(kind, error.text)
    return Failure("error", error.text or type(error).__name__)


def _pickled(error: BaseException, lines_beside: int) -> bytes:
    """The exception as bytes that come back as the same type; empty if there are none."""
    for is_careful, exceptions_max in TRIES:
        # what fails, in whatever way, is tried with less of it; the texts travel in any case
        with contextlib.suppress(BaseException):
            plan = plan_frames(error, exceptions_max, lines_beside)
            file = LimitedFile(EXCEPTION_BYTES_MAX)
            exception_pickler()(file, plan, is_careful, exceptions_max).dump(error)
            pickled = file.getvalue()
            if type(pickle.loads(pickled)) is type(error):
                return pickled
    return b""


class TooLarge(Exception):
    """What was to be pickled has no end in sight."""


class LimitedFile(io.BytesIO):
    """A file that refuses to become large."""

    def __init__(self, nbytes_max: int) -> None:
        super().__init__()
        self.nbytes_max = nbytes_max

    def write(self, piece: Any, /) -> int:
        if self.tell() + len(piece) > self.nbytes_max:
            raise TooLarge
        return super().write(piece)


@functools.cache
def exception_pickler() -> Any:
    """The pickler's class; a careful one leaves out what cannot travel or is too large."""
    import cloudpickle

    class ExceptionPickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(
            self, file: LimitedFile, plan: Plan, is_careful: bool, exceptions_max: int
        ) -> None:
            super().__init__(file, pickle.HIGHEST_PROTOCOL)
            self._plan = plan
            self._is_careful = is_careful
            self._left = exceptions_max

        def reducer_override(self, thing: Any) -> Any:
            kind = type(thing)
            if issubclass(kind, BaseException):
                self._left -= 1
                frames_max = self._plan.get(id(thing), 1)
                return _reduce_exception(thing, self._is_careful, self._left >= 0, frames_max)
            if kind is TracebackType:
                return traceback_of, ([],)
            if issubclass(kind, type) and MADE_OF in vars(thing):
                return dual_type, (vars(thing)[MADE_OF],)
            return super().reducer_override(thing)

    return ExceptionPickler


def _reduce_exception(
    error: BaseException, is_careful: bool, is_whole: bool, frames_max: int
) -> Any:
    """As `__reduce__`: the bare object first, so that chains may lead back to it."""
    state = _state_of(error, is_careful, is_whole, frames_max)
    made_of = getattr(type(error), MADE_OF, None)
    if made_of is not None:
        cause = vars(error).get(CAUSE)
        told = (cause,) if cause is not None else (bare_exception(made_of, state[0]),)
        return task_error, told, state, None, None, set_state
    if not is_careful and _has_own_reduce(type(error)):
        reduced = error.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if isinstance(reduced, tuple):
            own = (reduced[2] if len(reduced) > 2 else None, state[3:])
            return *reduced[:2], own, None, None, set_own_state
    return bare_exception, (type(error), state[0]), state, None, None, set_state


def _has_own_reduce(kind: type) -> bool:
    names = ("__reduce__", "__reduce_ex__")
    return any(isinstance(getattr(kind, name, None), FunctionType) for name in names)


def _state_of(
    error: BaseException, is_careful: bool, is_whole: bool, frames_max: int = LINES_MAX
) -> State:
    args = error.args if isinstance(error.args, tuple) else ()
    attributes, members = dict(vars(error)), _members(error)
    if hasattr(type(error), MADE_OF):
        cause = attributes.pop(CAUSE, None)
        if cause is not None and attributes.get("cause") is cause:
            del attributes["cause"]  # it is what the error is made from, and travels as that
    if is_careful:
        args = tuple(each if _can_travel(each) else _cut_repr(each) for each in args)
        if "__notes__" in attributes:
            attributes["__notes__"] = notes_of(error)[:NOTES_MAX]
        attributes = {name: each for name, each in attributes.items() if _can_travel(each)}
        members = {name: each for name, each in members.items() if _can_travel(each)}
    chain: Chain = (None, None, True)
    if is_whole:
        chain = (error.__cause__, error.__context__, error.__suppress_context__)
    return args, attributes, members, chain, frames_of(error, frames_max)


def _members(error: BaseException) -> dict[str, Any]:
    """What is not in ``__dict__``: slots, and fields of exceptions made in C such as ``errno``."""
    found: dict[str, Any] = {}
    for kind in type(error).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, MemberDescriptorType) and name not in (
                "obj",  # of an AttributeError: anything, however large
                "__suppress_context__",
            ):
                value = getattr(error, name, None)
                if value is not None:  # an OSError told that its file is None says so in its text
                    found[name] = value
    return found


def _can_travel(value: Any) -> bool:
    try:
        file = LimitedFile(ATTRIBUTE_BYTES_MAX)
        exception_pickler()(file, {}, True, EXCEPTIONS_MAX).dump(value)
        pickle.loads(file.getvalue())
    except BaseException:
        return False
    return True


def _cut_repr(value: Any) -> str:
    if isinstance(value, str):
        return cut(value, TEXT_CHARS_MAX)
    try:
        return SHORT.repr(value)  # of a list of a million it looks at the first six
    except BaseException:
        return f"<{type_name(type(value))}>"


# -- where it is raised


def load_failure(failure: Failure) -> BaseException:
    """The error to raise for a failure, made anew each time: raising adds to its traceback."""
    if failure.kind in DETAILED:
        return _detailed(failure)
    raised = _raised(failure.pickled)
    if failure.kind != "task":
        kind = FAILURES.get(failure.kind, FabricError)
        error = kind(failure.text, advice=ADVICES.get(failure.kind))
        if raised is not None:
            error.__cause__ = _load_raised(raised)
        return error
    return TaskError(failure.text) if raised is None else _load_raised(raised)


def _detailed(failure: Failure) -> BaseException:
    """An error of the fabric's own with the figures it was told by."""
    error = FAILURES[failure.kind](failure.text, advice=ADVICES.get(failure.kind))
    if failure.kind in ("store_full", "store_too_small"):
        details = msgspec.msgpack.decode(failure.pickled) if failure.pickled else {}
    elif failure.pickled:
        details = msgspec.structs.asdict(msgspec.msgpack.decode(failure.pickled, type=Crash))
    else:
        details = {}
    for name in type(error).__annotations__:
        if name in details:
            setattr(error, name, details[name])
    return error


def _raised(pickled: bytes) -> Raised | None:
    try:
        return msgspec.msgpack.decode(pickled, type=Raised) if pickled else None
    except msgspec.MsgspecError:
        return None


def _load_raised(raised: Raised) -> BaseException:
    cause: object = None
    # it came back in the worker, but here a module may be missing or another version
    with contextlib.suppress(Exception):
        cause = pickle.loads(raised.exception) if raised.exception else None
    if isinstance(cause, TaskError):  # of a task that the task waited for: it goes on as it is
        error = cause
        error.remote_traceback = raised.traceback
        return _passed_on(error, raised)
    elif isinstance(cause, BaseException):
        error = task_error(cause, raised.task, raised.node, raised.pid, raised.traceback)
    else:
        error = TaskError(f"{raised.type_name}: {raised.text}".removesuffix(": "))
        error.task, error.node, error.pid = raised.task, raised.node, raised.pid
        error.remote_traceback = raised.traceback
        error.add_note(f"\n{raised.traceback}")
    where = _where(raised)
    if where:
        _note(error, f"raised by {where} [{TaskError.code}]")
    return error


def _passed_on(error: TaskError, raised: Raised) -> TaskError:
    """It went through another task: of a tower of a hundred the last one is named."""
    hops = vars(error).get(HOPS, 0) + 1
    vars(error)[HOPS] = hops
    notes = getattr(error, "__notes__", None)
    if hops > 1 and isinstance(notes, list) and notes and str(notes[-1]).startswith(PASSED_ON):
        notes.pop()
    through = f"{hops} tasks, at last " if hops > 1 else ""
    _note(error, f"{PASSED_ON} {through}{_where(raised) or 'a task'}")
    return error


def _note(error: BaseException, note: str) -> None:
    with contextlib.suppress(TypeError):  # the user's own ``__notes__`` are not a list
        error.add_note(note)


def _where(raised: Raised) -> str:
    parts = [f"`{raised.task}`" if raised.task else ""]
    parts.append(f"in process {raised.pid}" if raised.pid else "")
    parts.append(f"on node {raised.node[:NODE_CHARS]}" if raised.node else "")
    return " ".join(part for part in parts if part)


def task_error(
    cause: BaseException,
    task: str = "",
    node: str = "",
    pid: int = 0,
    remote_traceback: str = "",
) -> TaskError:
    """A `TaskError` that is also of the type of its cause, and looks like it."""
    error: TaskError | None = None
    kind: Any = type(cause)
    made = dual_type(kind)
    if made is not None:
        with contextlib.suppress(Exception):  # a type that cannot be made in this way
            error = bare_exception(made, cause.args)
            set_state(error, _state_of(cause, False, True))
            error.__traceback__ = cause.__traceback__
    if error is None:
        error = TaskError(brief_error(cause))
        error.__cause__ = cause
    vars(error)[CAUSE] = cause
    told = (cause, task, node, pid, remote_traceback)
    for name, value in zip(DETAILS, told, strict=True):
        if not _has_own(cause, name):  # what the user calls so comes first
            setattr(error, name, value)
    return error


DETAILS = ("cause", "task", "node", "pid", "remote_traceback")


def _has_own(cause: BaseException, name: str) -> bool:
    return name in vars(cause) or any(name in vars(kind) for kind in type(cause).__mro__)


@functools.lru_cache(maxsize=DUAL_TYPES_MAX)
def dual_type(kind: Any) -> type[TaskError] | None:
    """The class that is both the user's type and a `TaskError`; None where there can be none."""
    if issubclass(kind, TaskError):
        return cast("type[TaskError]", kind)
    if not issubclass(kind, Exception) or issubclass(kind, NOT_RAISED):
        return None
    names: dict[str, Any] = {
        MADE_OF: kind,
        "__module__": TaskError.__module__,
        "__qualname__": f"TaskError({kind.__qualname__})",
        "__doc__": kind.__doc__,
        "__reduce__": _reduce_dual,
        # a user's class that has none of its own would get those of FabricError
        "__str__": kind.__str__,
        "__init__": kind.__init__,
    }
    if not hasattr(kind, "text"):
        names["text"] = ""  # a property up there would hide the user's attribute of that name
    try:
        return type(f"TaskError({kind.__name__})", (kind, TaskError), names)
    except Exception:  # final, or with demands on its subclasses
        return None


def _reduce_dual(self: TaskError) -> Any:
    """How it is pickled by others, when a program keeps it as a value, say; as usual, alone."""
    args, attributes, members, _, _ = _state_of(self, False, False)
    return revive_dual, (getattr(type(self), MADE_OF), args, attributes, members)


# -- pickles call these by name


def bare_exception(kind: type[Any], args: tuple[Any, ...]) -> Any:
    """An exception made without running the user's ``__init__``, which may want anything."""
    builtin = next(each for each in kind.__mro__ if not each.__flags__ & HEAP_TYPE)
    try:
        return builtin.__new__(kind, *args)
    except TypeError:  # made in C with a constructor of its own
        return kind(*args)


def revive_dual(
    kind: type[Any], args: tuple[Any, ...], attributes: dict[str, Any], members: dict[str, Any]
) -> TaskError:
    """A `TaskError` of that type of the user's, from its parts."""
    cause = bare_exception(kind, args)
    set_state(cause, (args, attributes, members, (None, None, True), []))
    return task_error(cause)


def set_state(error: BaseException, state: State) -> None:
    """Give a bare exception back what it was."""
    args, attributes, members, chain, frames = state
    error.args = args
    vars(error).update(attributes)
    for name, value in members.items():
        with contextlib.suppress(AttributeError, TypeError):  # set by its constructor for good
            setattr(error, name, value)
    _set_chain(error, chain, frames)


def set_own_state(error: BaseException, state: tuple[Any, Any]) -> None:
    """The same for a type with a ``__reduce__`` of its own."""
    own, (chain, frames) = state
    if own is not None:
        error.__setstate__(own)
    _set_chain(error, chain, frames)


def _set_chain(error: BaseException, chain: Chain, frames: Frames) -> None:
    error.__cause__, error.__context__, error.__suppress_context__ = chain
    error.__traceback__ = traceback_of(frames)
