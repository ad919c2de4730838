"""Tracebacks that travel: the user's frames, as plain tuples, and as text.

Frames of the fabric itself are left out, except where it was the fabric that broke. How many an
exception keeps is planned for all that is printed with it, its chain and its group: in all about
`LINES_MAX` lines on the caller's terminal. Real traceback objects are made of the tuples again
where the error is raised, so that a debugger or a plain `print_exc` shows the user's lines. Locals
never travel.
"""

import os
import traceback
from collections.abc import Iterator
from types import CodeType, FrameType, TracebackType

from fabric.exceptions import FabricError

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
LINES_MAX = 25
LINES_OF_CALLER = 7
"""The heading, two frames of the caller, and the line that says where it was raised."""

LINES_BETWEEN = 4
"""Around the words between two exceptions of a chain, and the second one's heading."""

LINES_OF_MEMBER = 2
LINES_FIRST = 5
LINES_LAST = 19
LINE_CHARS_MAX = 400
NOTE_CHARS_MAX = 4_000
CUT_LINES_MAX = 4
CHAIN_MAX = 8

Frames = list[tuple[str, str, int]]
"""File, function, line number; the outermost first."""

Plan = dict[int, int]
"""id of an exception → how many frames it keeps; those that are not printed keep one."""


# -- words


def brief_error(error: BaseException, chars_max: int = 500) -> str:
    """Type and text of an error, in one line, whatever its ``__str__`` does."""
    text = text_of(error)
    # a text of 100 MB is not split into words to show the first fifty of them
    words = " ".join(text[: 2 * chars_max].split())
    if len(text) > 2 * chars_max or len(words) > chars_max:
        words = f"{words[:chars_max]}… ({len(text):,} characters)"
    name = type_name(type(error))
    return f"{name}: {words}" if words else name


def text_of(error: BaseException) -> str:
    """`str` of an error that may be unable to say anything."""
    try:
        return str(error)
    except BaseException as failed:  # it may raise whatever it likes, and is about to be reported
        return f"(its text cannot be made: {type(failed).__name__})"


def type_name(kind: type) -> str:
    """The type's name, with its module unless everybody knows it."""
    plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"


def cut(text: str, chars_max: int) -> str:
    """The beginning of a text that is too long, no more than a few lines, and how much is missing.

    A text that is short enough keeps all its lines: they are the user's.
    """
    if len(text) <= chars_max:
        return text
    kept = "\n".join(text[:chars_max].split("\n", CUT_LINES_MAX)[:CUT_LINES_MAX])
    return f"{kept}… ({len(text) - len(kept):,} more characters)"


def notes_of(error: BaseException) -> list[str]:
    """The notes that are text, none longer than a page."""
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, (list, tuple)):
        return []
    return [cut(note, NOTE_CHARS_MAX) for note in notes if isinstance(note, str)]


# -- frames


def plan_frames(error: BaseException, exceptions_max: int, lines_beside: int = 0) -> Plan:
    """Share out the lines that are left for frames when all texts have theirs."""
    found: list[tuple[BaseException, bool]] = []
    lines = LINES_OF_CALLER + lines_beside
    for each, is_member in _printed(error, exceptions_max):
        text = cut(text_of(each), NOTE_CHARS_MAX)
        lines += max(1, text.count("\n") + 1) + sum(one.count("\n") + 1 for one in notes_of(each))
        lines += LINES_OF_MEMBER if is_member else LINES_BETWEEN if found else 0
        found.append((each, is_member))
    frames = max(0, LINES_MAX - lines) // 2
    share = frames // len(found)
    plan = {id(each): share for each, _ in found}
    chain = [each for each, is_member in found if not is_member]
    plan[id(chain[-1])] = max(1, share)  # where it began says most
    plan[id(error)] = max(1, frames - share * (len(found) - 1))
    return plan


def _printed(error: BaseException, exceptions_max: int) -> Iterator[tuple[BaseException, bool]]:
    """What the interpreter prints of an error, itself first, and whether as a group's member."""
    met: set[int] = set()
    waiting = [(error, False)]
    while waiting and len(met) < exceptions_max:
        each, is_member = waiting.pop(0)
        if id(each) in met:
            continue
        met.add(id(each))
        yield each, is_member
        before = _before(each)
        waiting += [(before[0], False)] if before else []
        if isinstance(each, BaseExceptionGroup):
            waiting += [(one, True) for one in each.exceptions]


def frames_of(error: BaseException, frames_max: int = LINES_MAX) -> Frames:
    """The user's frames of an error's traceback, that many, most of them from the end."""
    found: Frames = []
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        found.append((code.co_filename, code.co_name, at.tb_lineno))
        at = at.tb_next
    kept = _of_user(found, isinstance(error, FabricError))
    if len(kept) <= frames_max:
        return kept
    first, last = frames_max // 3, frames_max - frames_max // 3
    between = [("…", f"{len(kept) - first - last:,} frames left out", 0)] if first else []
    return [*kept[:first], *between, *kept[len(kept) - last :]]


def _of_user(frames: Frames, is_expected: bool) -> Frames:
    """Without the fabric's own frames, but for those that raised without meaning to."""
    end = len(frames)
    while end and frames[end - 1][0].startswith(PACKAGE):
        end -= 1
    kept = [each for each in frames[:end] if not each[0].startswith(PACKAGE)]
    return kept if is_expected else kept + frames[end:]


def beneath(found: TracebackType | None) -> TracebackType | None:
    """A traceback without the fabric's frames at its top: they say only that somebody asked."""
    while found is not None and found.tb_frame.f_code.co_filename.startswith(PACKAGE):
        found = found.tb_next
    return found


# -- tracebacks made of frames


class Stop(Exception):
    """Raised by code that is there to have been run."""


RAISING = compile("raise stop", "", "exec")
NO_COLUMNS = 13
"""How a table of lines says of an entry that it has a line and no columns (`locations.md`)."""


def traceback_of(frames: Frames) -> TracebackType | None:
    """A traceback with these frames, without their variables."""
    made: TracebackType | None = None
    for file, name, line in reversed(frames):
        frame = _frame(file, name, line)
        made = TracebackType(made, frame, frame.f_lasti, line)
    return made


def _frame(file: str, name: str, line: int) -> FrameType:
    """A frame of a code with that name: a traceback cannot be made without one.

    The code has no columns, or the interpreter would underline places in lines it never ran.
    """
    code = RAISING.replace(
        co_filename=file,
        co_name=name,
        co_qualname=name,
        co_firstlineno=line,
        co_linetable=_one_line(RAISING),
    )
    names: dict[str, object] = {"__name__": name, "__file__": file, "stop": Stop}
    try:
        exec(code, names)
    except Stop as stop:
        if stop.__traceback__ is not None and stop.__traceback__.tb_next is not None:
            names.clear()
            return stop.__traceback__.tb_next.tb_frame
    raise AssertionError("code that raises has not raised")


def _one_line(code: CodeType) -> bytes:
    """A table that puts the whole code on its first line; an entry covers up to eight units."""
    units = len(code.co_code) // 2
    table = bytearray()
    while units > 0:
        covered = min(units, 8)
        table += bytes((0x80 | NO_COLUMNS << 3 | covered - 1, 0))
        units -= covered
    return bytes(table)


# -- text


def traceback_text(error: BaseException) -> str:
    """What the interpreter would print, with the user's frames only and no more than 25 lines."""
    lines: list[str] = []
    met: set[int] = set()
    plan = plan_frames(error, CHAIN_MAX)
    link: tuple[BaseException, str] | None = (error, "")
    while link is not None and id(link[0]) not in met and len(met) < CHAIN_MAX:
        met.add(id(link[0]))
        shown = _lines_of(link[0], plan.get(id(link[0]), 1))
        lines[:0] = [*shown, *(["", link[1], ""] if link[1] else [])]
        link = _before(link[0])
    if len(lines) > LINES_MAX:
        missing = len(lines) - LINES_FIRST - LINES_LAST
        lines = [*lines[:LINES_FIRST], f"  … {missing:,} lines left out …", *lines[-LINES_LAST:]]
    return "\n".join(lines)


def _lines_of(error: BaseException, frames_max: int) -> list[str]:
    frames = frames_of(error, frames_max)
    lines = ["Traceback (most recent call last):"] if frames else []
    for file, name, line in frames:
        summary = traceback.FrameSummary(file, line, name, lookup_line=True)
        lines += traceback.StackSummary.from_list([summary]).format()[0].splitlines()
    lines.append(brief_error(error))
    lines += [line for note in notes_of(error) for line in note.splitlines()]
    return [cut(line, LINE_CHARS_MAX) for line in lines]


def _before(error: BaseException) -> tuple[BaseException, str] | None:
    """The error before this one in its chain, and the words between the two."""
    if error.__cause__ is not None:
        return error.__cause__, "The above exception was the direct cause of the following:"
    if error.__context__ is not None and not error.__suppress_context__:
        return error.__context__, "During handling of the above exception, another one occurred:"
    return None
