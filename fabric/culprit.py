"""Where in a value, or around a function, the thing is that cannot be pickled.

Only used when pickling has failed already, so it may take its time: it asks the pickler about each
part, goes into the first that fails, and stops where every part of a part is fine. It follows
items, attributes, closures, defaults and the globals that a function uses. Depth and the number of
tries are bounded; what it names is then a place on the way to the culprit.
"""

import functools
import pickle
import reprlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

from fabric.tracebacks import brief_error

DEPTH_MAX = 40
TRIES_MAX = 2_000
TRY_BYTES_MAX = 64 * 1024 * 1024
ERROR_CHARS_MAX = 300

SILENT = frozenset(("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"))
"""What every class has and none is to blame for."""


class Part(NamedTuple):
    """A thing, the expression that leads to it, and around which function it was found."""

    path: str
    around: str
    thing: Any

    def inside(self, suffix: str, thing: object) -> "Part":
        return Part(self.path + suffix, self.around, thing)

    def beside(self, path: str, place: str, thing: object) -> "Part":
        return Part(path, f" {place} `{self.path}`{self.around}", thing)

    def __str__(self) -> str:
        return f"`{self.path}` ({_public_name(type(self.thing))}){self.around}"


def _public_name(kind: type) -> str:
    """As people import it: ``threading.Lock``, and not ``_thread.lock``."""
    module, name = kind.__module__, kind.__qualname__
    if module == "builtins":
        return name
    if module == "_thread":
        return f"threading.{name[0].upper()}{name[1:]}"
    known = sys.modules.get(module.lstrip("_"))
    if known is not None and hasattr(known, name):
        module = known.__name__
    return f"{module}.{name}"


def describe(names: Sequence[tuple[str, object]], error: BaseException) -> str:
    """One sentence about the first of these named things that cannot be pickled."""
    part = find(names)
    subject = str(part) if part else " or ".join(f"`{name}`" for name, _ in names[:3])
    return f"Cannot pickle {subject}: {brief_error(error, ERROR_CHARS_MAX)}"


def find(names: Sequence[tuple[str, object]]) -> Part | None:
    """The smallest part that fails on its own, None if each of them can be pickled."""
    search = Search()
    for name, thing in names:
        if not search.can_pickle(thing):
            return search.descend(Part(name, "", thing))
    return None


class TryTooLarge(Exception):
    """A part is so large that trying it is not worth its memory."""


class NullFile:
    """A file that keeps nothing."""

    def __init__(self) -> None:
        self.nbytes = 0

    def write(self, piece: bytes) -> int:
        self.nbytes += len(piece)
        if self.nbytes > TRY_BYTES_MAX:
            raise TryTooLarge
        return len(piece)


class Search:
    """One search: what was tried already, and how often."""

    def __init__(self) -> None:
        self._tries = 0
        # id -> the thing itself, so that nothing else gets its id meanwhile
        self._seen: dict[int, object] = {}

    def can_pickle(self, thing: object) -> bool:
        """Whether the pickler takes it; what is too large to try counts as fine."""
        from fabric.serialization import by_value_pickler

        self._tries += 1
        make: Callable[..., Any] = by_value_pickler()
        try:
            make(NullFile(), _forget, _forget).dump(thing)
        except TryTooLarge:
            return True
        except Exception:
            return False
        return True

    def descend(self, part: Part) -> Part:
        """Go on into the first part of a part that fails."""
        for _ in range(DEPTH_MAX):
            self._seen[id(part.thing)] = part.thing
            smaller = self._first_bad(parts_of(part))
            if smaller is None:
                break
            part = smaller
        return part

    def _first_bad(self, candidates: Iterator[Part]) -> Part | None:
        for each in candidates:
            if self._tries >= TRIES_MAX:
                return None
            if id(each.thing) not in self._seen and not self.can_pickle(each.thing):
                return each
        return None


def _forget(thing: object) -> None:
    """Take a buffer or a ref and keep nothing of it."""


def parts_of(part: Part) -> Iterator[Part]:
    """What a thing is made of, as a pickle sees it."""
    thing = part.thing
    if isinstance(thing, FunctionType):
        yield from _parts_of_function(part, thing)
    elif isinstance(thing, type):
        for name, value in list(vars(thing).items()):
            if name not in SILENT:
                yield part.inside(f".{name}", _unwrapped(value))
    elif isinstance(thing, MethodType):
        yield part.inside(".__self__", thing.__self__)
        yield part.inside(".__func__", thing.__func__)
    elif isinstance(thing, functools.partial):
        yield part.inside(".func", thing.func)
        yield part.inside(".args", thing.args)
        yield part.inside(".keywords", thing.keywords)
    else:
        yield from _items(part)
        yield from _attributes(part)


def _items(part: Part) -> Iterator[Part]:
    thing = part.thing
    if isinstance(thing, dict):
        for key, value in list(thing.items()):
            yield part.inside(f"[{reprlib.repr(key)}]", value)
            yield Part(f"a key of {part.path}", part.around, key)
    elif isinstance(thing, (list, tuple)):
        for index, value in enumerate(thing):
            yield part.inside(f"[{index}]", value)
    elif isinstance(thing, (set, frozenset)):
        for value in list(thing):
            yield Part(f"an item of {part.path}", part.around, value)


def _attributes(part: Part) -> Iterator[Part]:
    """The state that a pickle would keep, else whatever its own ``__reduce__`` hands out."""
    try:
        state = part.thing.__getstate__()
    except Exception:  # the class forbids pickling: its attributes are all there is to look at
        state = getattr(part.thing, "__dict__", None)
    for attributes in state if isinstance(state, tuple) else (state,):
        if isinstance(attributes, dict):
            for name, value in list(attributes.items()):
                yield part.inside(f".{name}", value)
    try:
        reduced = part.thing.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except Exception:  # then the thing itself is the culprit, unless an attribute was
        return
    if isinstance(reduced, tuple):
        for index, value in enumerate(reduced[:3]):
            if value is not part.thing:
                yield part.inside(f".__reduce__()[{index}]", value)


def _parts_of_function(part: Part, function: FunctionType) -> Iterator[Part]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        try:
            value = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        yield part.beside(name, "in the closure of", value)
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield part.beside(name, "among the globals of", function.__globals__[name])
    for value in function.__defaults__ or ():
        yield part.beside(reprlib.repr(value), "among the defaults of", value)
    for name, value in (function.__kwdefaults__ or {}).items():
        yield part.beside(name, "among the defaults of", value)
    for name, value in list(vars(function).items()):
        yield part.inside(f".{name}", value)


def _global_names(code: CodeType) -> dict[str, None]:
    """The names that the code, or code inside of it, looks up outside; in order, each once."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _unwrapped(value: object) -> object:
    """The function in a static method, class method or property."""
    if isinstance(value, (staticmethod, classmethod)):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    return value
