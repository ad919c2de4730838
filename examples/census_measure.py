"""Measure Python source files: lines, functions, branches, docstrings, imports.

First stage of the census. One walk over a file's syntax tree writes one byte for each node, its
*label*; a function is then a slice of that string, its branches are counted in the slice, and the
slice itself is the function's *shape*: names and constants are not in it, so that a copy with every
variable renamed has the same shape. Nothing here knows that there is more than one process.
"""

import ast
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

KINDS = sorted((kind for kind in vars(ast).values() if isinstance(kind, type)), key=str)
LABELS = {kind: number for number, kind in enumerate(KINDS, start=1)}
FIELDS = {
    kind: [name for name in kind._fields if name != "ctx"]
    for kind in KINDS
    if issubclass(kind, ast.AST)
}
"""The fields to follow. Whether a name is loaded or stored is plain from where it stands."""

BRANCHES = bytes(
    LABELS[kind]
    for kind in (
        *(ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.BoolOp),
        *(ast.ExceptHandler, ast.comprehension, ast.match_case),
    )
)
NODES_MIN = 50
"""Smaller functions resemble each other by accident; their shapes are not kept."""


class Place(NamedTuple):
    """Where a function stands. Sorts by path and line, so every tie is broken the same way."""

    path: str
    line: int
    name: str
    lines: int


class Shape(NamedTuple):
    """A function without its words: one byte for each node of its tree."""

    place: Place
    labels: bytes


@dataclass
class Figures:
    """What was counted in some files. Figures can be added, in any order."""

    files: int = 0
    unreadable: int = 0
    code: int = 0
    comments: int = 0
    docstrings: int = 0
    blank: int = 0
    classes: int = 0
    public: int = 0
    documented: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    branches: Counter[int] = field(default_factory=Counter)
    imports: Counter[str] = field(default_factory=Counter)
    longest: tuple[int, Place] | None = None
    most_branching: tuple[int, Place] | None = None

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            **{name: getattr(self, name) + getattr(other, name) for name in SUMMED},
            longest=largest(self.longest, other.longest),
            most_branching=largest(self.most_branching, other.most_branching),
        )

    @property
    def lines(self) -> int:
        return self.code + self.comments + self.docstrings + self.blank

    @property
    def functions(self) -> int:
        return self.lengths.total()


SUMMED = [
    name for name in Figures.__dataclass_fields__ if name not in ("longest", "most_branching")
]


def largest(
    left: tuple[int, Place] | None, right: tuple[int, Place] | None
) -> tuple[int, Place] | None:
    """The record of the two; of equal ones the place that sorts last."""
    return max(left, right) if left and right else left or right


def quantile(histogram: Counter[int], share: float) -> int:
    """The smallest value that at least this share of what was counted does not exceed."""
    seen, wanted = 0, share * histogram.total()
    for value in sorted(histogram):
        seen += histogram[value]
        if seen >= wanted:
            return value
    return 0


class Outline:
    """What one walk over a module's tree collects."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.labels = bytearray()
        self.figures = Figures(files=1)
        self.shapes: list[Shape] = []
        self.docstring_lines: set[int] = set()
        self.quoted_lines: set[int] = set()
        self._names: list[str] = []
        self._special: dict[type[ast.AST], Callable[[Any], None]] = {
            ast.Module: self._on_module,
            ast.ClassDef: self._on_class,
            ast.FunctionDef: self._on_function,
            ast.AsyncFunctionDef: self._on_function,
            ast.Import: self._on_import,
            ast.ImportFrom: self._on_import,
            ast.Constant: self._on_text,
            ast.JoinedStr: self._on_text,
        }

    def visit(self, node: ast.AST) -> None:
        """Label a node, then its children."""
        kind = type(node)
        self.labels.append(LABELS[kind])
        on_special = self._special.get(kind)
        if on_special is not None:
            on_special(node)
            return
        for name in FIELDS[kind]:
            child = getattr(node, name, None)
            if isinstance(child, ast.AST):
                self.visit(child)
            elif isinstance(child, list):
                for item in child:
                    if isinstance(item, ast.AST):
                        self.visit(item)

    def _on_module(self, node: ast.Module) -> None:
        self._visit_documented(node, public=True)

    def _on_class(self, node: ast.ClassDef) -> None:
        self.figures.classes += 1
        self._visit_named(node)

    def _on_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        start = len(self.labels) - 1
        name = ".".join([*self._names, node.name])
        self._visit_named(node)
        shape = bytes(self.labels[start:])
        place = Place(self.path, node.lineno, name, lines_of(node))
        branches = 1 + sum(map(shape.count, BRANCHES))
        self.figures.lengths[place.lines] += 1
        self.figures.branches[branches] += 1
        self.figures.longest = largest(self.figures.longest, (place.lines, place))
        self.figures.most_branching = largest(self.figures.most_branching, (branches, place))
        if len(shape) >= NODES_MIN:
            self.shapes.append(Shape(place, shape))

    def _on_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self.figures.imports.update({alias.name.split(".")[0] for alias in node.names})
        elif node.module and not node.level:
            self.figures.imports[node.module.split(".")[0]] += 1

    def _on_text(self, node: ast.Constant | ast.JoinedStr) -> None:
        if node.end_lineno is not None and node.end_lineno > node.lineno:
            self.quoted_lines.update(range(node.lineno + 1, node.end_lineno + 1))

    def _visit_named(self, node: Definition) -> None:
        self._names.append(node.name)
        self._visit_documented(node, public=not any(name.startswith("_") for name in self._names))
        self._names.pop()

    def _visit_documented(self, node: ast.Module | Definition, public: bool) -> None:
        """Visit the children without the docstring: what is only read does not change a shape."""
        docstring = docstring_of(node)
        if docstring is not None:
            self.docstring_lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
        self.figures.public += public
        self.figures.documented += public and docstring is not None
        for child in ast.iter_child_nodes(node):
            if child is not docstring:
                self.visit(child)


def docstring_of(node: ast.Module | Definition) -> ast.Expr | None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())) as statement, *_]:
            return statement
    return None


def lines_of(node: Definition) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def count_lines(source: bytes, outline: Outline) -> None:
    """Sort each line into one of four kinds. A ``#`` inside a long string is code."""
    figures = outline.figures
    for number, line in enumerate(source.splitlines(), start=1):
        text = line.strip()
        if not text:
            figures.blank += 1
        elif number in outline.docstring_lines:
            figures.docstrings += 1
        elif text.startswith(b"#") and number not in outline.quoted_lines:
            figures.comments += 1
        else:
            figures.code += 1


def area_of(path: str) -> str:
    """The part of the library a file belongs to: its tests, a package, or the top modules."""
    first, *rest = Path(path).parts
    if any(part in ("test", "tests", "idle_test") for part in (first, *rest)):
        return "tests"
    return first if rest else "modules"


def measure_file(root: Path, path: str) -> tuple[Figures, list[Shape]]:
    """Parse one file and count what is in it. Some test files are broken, on purpose."""
    source = (root / path).read_bytes()
    outline = Outline(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        outline.visit(tree)
    except (SyntaxError, ValueError, RecursionError):
        return Figures(files=1, unreadable=1), []
    count_lines(source, outline)
    return outline.figures, outline.shapes


def measure_files(root: Path, paths: Iterable[str]) -> tuple[dict[str, Figures], list[Shape]]:
    """The figures of some files by area, and the shapes of their functions."""
    areas: dict[str, Figures] = {}
    shapes: list[Shape] = []
    for path in paths:
        figures, found = measure_file(root, path)
        area = area_of(path)
        areas[area] = areas.get(area, Figures()) + figures
        shapes += found
    return areas, shapes


def sum_of_areas(left: dict[str, Figures], right: dict[str, Figures]) -> dict[str, Figures]:
    """The sum of two partial results."""
    return {
        area: left.get(area, Figures()) + right.get(area, Figures())
        for area in sorted({*left, *right})
    }
