"""Tracebacks that travel: the user's frames, as plain tuples, and as text.

Frames of the fabric itself are left out, except where it was the fabric that broke; of very deep
stacks the middle is left out. Real traceback objects are made of the tuples again where the error
is raised, so that a debugger or a plain `print_exc` shows the user's lines. Locals never travel.
"""

import os
import traceback
from types import TracebackType

from fabric.exceptions import FabricError

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
FRAMES_FIRST = 6
FRAMES_LAST = 14
LINES_FIRST = 5
LINES_LAST = 19
LINE_CHARS_MAX = 400
CHAIN_MAX = 8

Frames = list[tuple[str, str, int]]
"""File, function, line number; the outermost first."""


def brief_error(error: BaseException, chars_max: int = 500) -> str:
    """Type and text of an error, in one line, whatever its ``__str__`` does."""
    text = cut(" ".join(text_of(error).split()), chars_max)
    name = type_name(type(error))
    return f"{name}: {text}" if text else name


def text_of(error: BaseException) -> str:
    """`str` of an error that may be unable to say anything."""
    try:
        return str(error)
    except Exception as failed:
        return f"(its text cannot be made: {type(failed).__name__})"


def type_name(kind: type) -> str:
    """The type's name, with its module unless everybody knows it."""
    plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"


def cut(text: str, chars_max: int) -> str:
    """The beginning of a text, and how much is missing."""
    if len(text) <= chars_max:
        return text
    return f"{text[:chars_max]}… ({len(text) - chars_max:,} more characters)"


def frames_of(error: BaseException) -> Frames:
    """The user's frames of an error's traceback, a limited number from both ends."""
    found: Frames = []
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        found.append((code.co_filename, code.co_name, at.tb_lineno))
        at = at.tb_next
    kept = _of_user(found, isinstance(error, FabricError))
    missing = len(kept) - FRAMES_FIRST - FRAMES_LAST
    if missing <= 1:
        return kept
    between = ("…", f"{missing:,} frames left out", 0)
    return [*kept[:FRAMES_FIRST], between, *kept[-FRAMES_LAST:]]


def _of_user(frames: Frames, is_expected: bool) -> Frames:
    """Without the fabric's own frames, but for those that raised without meaning to."""
    end = len(frames)
    while end and frames[end - 1][0].startswith(PACKAGE):
        end -= 1
    kept = [each for each in frames[:end] if not each[0].startswith(PACKAGE)]
    return kept if is_expected else kept + frames[end:]


def traceback_of(frames: Frames) -> TracebackType | None:
    """A traceback with these frames, without their variables."""
    from tblib import Traceback

    if not frames:
        return None
    made: dict[str, object] | None = None
    for file, name, line in reversed(frames):
        code = {"co_filename": file, "co_name": name}
        names = {"__name__": name, "__file__": file}
        frame = {"f_code": code, "f_globals": names, "f_locals": {}, "f_lineno": line}
        made = {"tb_frame": frame, "tb_lineno": line, "tb_next": made}
    found: TracebackType = Traceback.from_dict(made).as_traceback()
    return found


def traceback_text(error: BaseException) -> str:
    """What the interpreter would print, with the user's frames only and no more than 25 lines."""
    lines: list[str] = []
    met: set[int] = set()
    link: tuple[BaseException, str] | None = (error, "")
    while link is not None and id(link[0]) not in met and len(met) < CHAIN_MAX:
        met.add(id(link[0]))
        lines[:0] = [*_lines_of(link[0]), *(["", link[1], ""] if link[1] else [])]
        link = _before(link[0])
    if len(lines) > LINES_FIRST + LINES_LAST + 1:
        missing = len(lines) - LINES_FIRST - LINES_LAST
        lines = [*lines[:LINES_FIRST], f"  … {missing:,} lines left out …", *lines[-LINES_LAST:]]
    return "\n".join(lines)


def _lines_of(error: BaseException) -> list[str]:
    frames = frames_of(error)
    lines = ["Traceback (most recent call last):"] if frames else []
    for file, name, line in frames:
        summary = traceback.FrameSummary(file, line, name, lookup_line=True)
        lines += traceback.StackSummary.from_list([summary]).format()[0].splitlines()
    lines.append(brief_error(error))
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, (list, tuple)):
        lines += [line for note in notes if isinstance(note, str) for line in note.splitlines()]
    return [cut(line, LINE_CHARS_MAX) for line in lines]


def _before(error: BaseException) -> tuple[BaseException, str] | None:
    """The error before this one in its chain, and the words between the two."""
    if error.__cause__ is not None:
        return error.__cause__, "The above exception was the direct cause of the following:"
    if error.__context__ is not None and not error.__suppress_context__:
        return error.__context__, "During handling of the above exception, another one occurred:"
    return None
