"""Show a census: tables of 80 columns for people, one object for programs.

Last stage of the census. A census goes in, something rich can print comes out; nothing is counted
here that is not a sum or a share of what the census holds.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from census_measure import Figures, Place, area_of, quantile
from census_twins import ALIKE_MIN, Census, Family
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

AREAS_SHOWN = 10
WIDTH = 80
KINDS = {
    "code": ("█", "cyan"),
    "docstrings": ("▓", "green"),
    "comments": ("▒", "yellow"),
    "blank": ("░", "dim"),
}


def show_census(census: Census) -> None:
    """Print the whole census; plain text where the output is not a terminal."""
    total, version = census.total, ".".join(map(str, sys.version_info[:3]))
    title = (
        f"The standard library of Python {version}: {total.files:,} files, "
        f"{total.lines:,} lines,\n{total.functions:,} functions, {total.classes:,} classes"
    )
    if total.unreadable:
        title += f" ({total.unreadable} files cannot be parsed)"
    library = [family for family in census.families if not in_tests(family)]
    tests = [family for family in census.families if in_tests(family)]
    print_in_80_columns(
        Text(title, style="bold"),
        areas_table(census),
        records(census),
        families_table(f"Near-duplicates in the library: {summary(library)}", library, shown=8),
        families_table(f"Near-duplicates in its tests: {summary(tests)}", tests, shown=4),
        Text(
            f"alike: shared runs of syntax without names and constants, {ALIKE_MIN:.0%} or more",
            "dim",
        ),
    )


def show_times(seconds: dict[str, float], note: str) -> None:
    """How long each run took, and how they compare. The first run is the one that is compared."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    first, *others = seconds
    for name in seconds:
        table.add_row(name, f"{seconds[name]:6.1f} s", style="bold" if name == first else "")
    for name in others:
        table.add_row(
            f"{first}:", f"{seconds[name] / seconds[first]:6.2f} times as fast", "tables equal"
        )
    print_in_80_columns(table, *([Text(note, style="dim")] if note else []))


def print_in_80_columns(*renderables: RenderableType) -> None:
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    for renderable in renderables:
        console.print(renderable)
        console.print()


def in_tests(family: Family) -> bool:
    return any(area_of(place.path) == "tests" for place in family.members)


def summary(families: list[Family]) -> str:
    members = sum(len(family.members) for family in families)
    lines = sum(family.copied_lines for family in families)
    return f"{members:,} in {len(families):,} families, {lines:,} lines too many"


def areas_table(census: Census) -> RenderableType:
    """One row for each area, largest first; the small ones share a row."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("area", no_wrap=True)
    table.add_column("files", justify="right")
    table.add_column("lines", justify="right")
    table.add_column("made of", min_width=12, no_wrap=True)
    for name in ("functions", "p50", "p90", "paths", "doc"):
        table.add_column(name, justify="right")
    areas = sorted(census.areas, key=lambda area: (-census.areas[area].lines, area))
    for area in areas[:AREAS_SHOWN]:
        table.add_row(area, *columns(census.areas[area]))
    if others := areas[AREAS_SHOWN:]:
        table.add_row(
            f"{len(others)} others", *columns(sum((census.areas[a] for a in others), Figures()))
        )
    table.add_section()
    table.add_row("all", *columns(census.total), style="bold")
    return Group(table, legend())


def columns(figures: Figures) -> Iterable[RenderableType]:
    """What a row says of an area, in the order of the columns."""
    return (
        f"{figures.files:,}",
        f"{figures.lines:,}",
        composition(figures),
        f"{figures.functions:,}",
        str(quantile(figures.lengths, 0.5)),
        str(quantile(figures.lengths, 0.9)),
        f"{mean(figures.branches):.1f}",
        f"{figures.documented / figures.public:.0%}" if figures.public else "",
    )


def mean(histogram: Counter[int]) -> float:
    return sum(value * times for value, times in histogram.items()) / (histogram.total() or 1)


def composition(figures: Figures, cells: int = 12) -> Text:
    """A bar of the four kinds of lines; boundaries are rounded, so its length is always right."""
    bar, seen, drawn = Text(), 0, 0
    for kind, (glyph, style) in KINDS.items():
        seen += getattr(figures, kind)
        end = round(cells * seen / (figures.lines or 1))
        bar.append(glyph * (end - drawn), style)
        drawn = end
    return bar


def legend() -> Text:
    text = Text("made of ", style="dim")
    for kind, (glyph, style) in KINDS.items():
        text.append(f"{glyph} ", style).append(f"{kind}  ", "dim")
    return text.append(
        "\np50, p90: lines of a function   paths: branches + 1, mean   doc: of public names",
        "dim",
    )


def records(census: Census) -> RenderableType:
    """The longest, the most branching and the most wanted."""
    total, table = census.total, Table(box=None, show_header=False, padding=(0, 1))
    for title, unit, record in (
        ("longest function", "lines", total.longest),
        ("most branching", "paths", total.most_branching),
    ):
        if record is not None:
            table.add_row(title, f"{where(record[1])}, {record[0]} {unit}")
    imports = sum(
        (areas.imports for area, areas in census.areas.items() if area != "tests"), Counter[str]()
    )
    wanted = sorted(imports, key=lambda name: (-imports[name], name))[:7]
    table.add_row("most imported", ", ".join(f"{name} {imports[name]}" for name in wanted))
    return table


def families_table(title: str, families: list[Family], shown: int) -> RenderableType:
    """The families that would save the most lines, with the first two of each."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        padding=(0, 1, 0, 0),
    )
    for name in ("lines", "copies", "alike"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("the first two", no_wrap=True, overflow="ellipsis")
    for family in families[:shown]:
        table.add_row(
            str(family.copied_lines),
            str(len(family.members)),
            f"{int(family.alike * 100)}%",
            "\n".join(where(place) for place in family.members[:2]),
        )
    return table


def where(place: Place) -> str:
    """A place as editors and people read it."""
    return f"{place.path}:{place.line} {place.name}"


def as_json(census: Census) -> dict[str, Any]:
    """The census with plain names and numbers, in an order that does not change from run to run."""
    return {
        "files": census.total.files,
        "lines": census.total.lines,
        "functions": census.total.functions,
        "areas": {
            area: {
                "files": figures.files,
                "lines": {kind: getattr(figures, kind) for kind in KINDS},
                "functions": figures.functions,
                "function_lines": {
                    "median": quantile(figures.lengths, 0.5),
                    "p90": quantile(figures.lengths, 0.9),
                },
                "branches_mean": round(mean(figures.branches), 3),
                "documented": figures.documented,
                "public": figures.public,
            }
            for area, figures in sorted(census.areas.items())
        },
        "families": [
            {
                "alike": round(family.alike, 4),
                "copied_lines": family.copied_lines,
                "members": [f"{place.path}:{place.line} {place.name}" for place in family.members],
            }
            for family in census.families
        ],
    }
