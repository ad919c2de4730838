"""Writes what is generated from the code: ``python -m tests.docs``.

`docs/protocol.md` says of each message who says it to whom, with what fields;
`tests/protocol.sha256` pins the definitions to the wire integer. A message that changed since the
last commit needs a new `PROTOCOL`, so the pin is written anew only with it. Tests fail when either
file is stale.
"""

import ast
import hashlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from fabric.protocol import cluster, messages, values
from fabric.protocol.messages import PROTOCOL, AnyMessage

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "protocol.md"
PIN = ROOT / "tests" / "protocol.sha256"

RULER = re.compile(r"# -{10,} (?P<title>.+)")
ROUTE = re.compile(r"(?P<route>[a-z][^.]* -> [^.]+)\.\s+(?P<meaning>\S.*)", re.DOTALL)

PREFACE = """\
# The protocol

Generated from `messages.py`, `cluster.py` and `values.py` of `fabric/protocol` by `make docs`;
change the code, not this page.

Wire integer: **{protocol}**. Two processes talk only if theirs are equal. A frame's body is a list
of messages, each a msgpack array: its name, then its fields in the order given here. Fields with a
default may be missing at the end. Values of user code are opaque bytes throughout.
"""


# -- the page


@dataclass(frozen=True)
class Entry:
    """A message or a struct inside messages, as the source has it."""

    name: str
    section: str
    prose: str
    fields: tuple[tuple[str, str, str], ...]
    """Name, type and default (or nothing)."""

    @property
    def route(self) -> tuple[str, str] | None:
        """Who says it to whom, and what it means; nothing for what only travels inside."""
        match = ROUTE.fullmatch(self.prose)
        return (" ".join(match["route"].split()), match["meaning"]) if match else None


def entries(source: str) -> Iterator[Entry]:
    """Every class of the source with its section, in order. Plain assignments are not shown."""
    sections = {
        number: match["title"].strip().capitalize()
        for number, line in enumerate(source.splitlines(), 1)
        if (match := RULER.fullmatch(line))
    }
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        above = [number for number in sections if number < node.lineno]
        if above:
            prose = ast.get_docstring(node) or ""
            yield Entry(node.name, sections[above[-1]], prose, tuple(_fields(node)))


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            default = ast.unparse(item.value) if item.value is not None else ""
            yield ast.unparse(item.target), ast.unparse(item.annotation), default


def source_of_words() -> str:
    """Where the words are defined: the messages first, then what travels inside them."""
    return "".join(Path(inspect.getfile(part)).read_text() for part in (messages, cluster, values))


def page(source: str) -> str:
    """`docs/protocol.md` for that source."""
    parts = [PREFACE.format(protocol=PROTOCOL)]
    section = ""
    for entry in entries(source):
        if entry.section != section:
            section = entry.section
            parts.append(f"## {section}\n")
        parts.append(_paragraphs(entry))
    return "\n".join(parts)


def _paragraphs(entry: Entry) -> str:
    lines = [f"### {entry.name}", ""]
    if entry.route is not None:
        route, prose = entry.route
        lines += [f"*{route.replace('->', '→')}*", ""]
    else:
        prose = entry.prose
    lines += [prose.replace("``", "`"), ""]
    if entry.fields:
        lines += ["| field | type | default |", "|---|---|---|"]
        for name, kind, default in entry.fields:
            shown = f"`{default}`" if default else ""
            lines.append(f"| `{name}` | `{kind.replace('|', chr(92) + '|')}` | {shown} |")
        lines.append("")
    return "\n".join(lines)


# -- the pin


def definitions() -> str:
    """The messages and all that they contain, as text in which only what travels shows."""
    lines: dict[str, str] = {}
    waiting: list[type] = list(get_args(AnyMessage))
    while waiting:
        kind = waiting.pop()
        if kind.__name__ in lines:
            continue
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        shown = []
        for item in info.fields:
            shown.append(f"{item.encode_name}:{_spelled(item.type, waiting)}:{item.required}")
        lines[kind.__name__] = f"{kind.__name__} {info.tag} {info.array_like} {' '.join(shown)}"
    return "\n".join(lines[name] for name in sorted(lines))


def _spelled(kind: msgspec.inspect.Type, waiting: list[type]) -> str:
    """A type in one word; structs on the way are queued for a line of their own."""
    match kind:
        case msgspec.inspect.StructType(cls=cls):
            waiting.append(cls)
            return cls.__name__
        case msgspec.inspect.UnionType(types=types):
            return "(" + "|".join(sorted(_spelled(each, waiting) for each in types)) + ")"
        case msgspec.inspect.TupleType(item_types=types):
            return "tuple[" + ",".join(_spelled(each, waiting) for each in types) + "]"
        case (
            msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item)
        ):
            return f"array[{_spelled(item, waiting)}]"
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return f"map[{_spelled(key, waiting)},{_spelled(value, waiting)}]"
    return type(kind).__name__.removesuffix("Type").lower()


def pin() -> str:
    """The line that `tests/protocol.sha256` should have."""
    return f"{PROTOCOL} {hashlib.sha256(definitions().encode()).hexdigest()}\n"


def is_same_integer_for_other_words(old: str, new: str) -> bool:
    """Whether definitions changed and the wire integer did not."""
    return bool(old) and old != new and old.split()[0] == new.split()[0]


def _committed_pin() -> str:
    """The pin of the last commit; between two commits the words may change at will."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:{PIN.relative_to(ROOT)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout if shown.returncode == 0 else ""


def main() -> int:
    """Write both files."""
    if is_same_integer_for_other_words(_committed_pin(), pin()):
        print(f"the messages changed: PROTOCOL has to become {PROTOCOL + 1}", file=sys.stderr)
        return 1
    PAGE.write_text(page(source_of_words()))
    PIN.write_text(pin())
    print(f"wrote {PAGE.relative_to(ROOT)} and {PIN.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
