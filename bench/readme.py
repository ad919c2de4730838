"""The README's numbers: a table and a picture, made from one kept run and from nothing else.

Between two markers of the README stands what `block` makes of the file that the first marker
names; a test compares. A run on a loaded machine, of too few repetitions, or with something
missing, is refused.
"""

import re
from pathlib import Path

from bench.peers import BARE
from bench.picture import Bar, picture
from bench.quiet import IncompleteRun, refuse_if_few, refuse_if_loaded
from bench.report import Run, cell, number, run_of, title
from bench.rows import Row
from bench.table import ROWS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "bench" / "results" / "numbers.svg"
BEGIN = "<!-- numbers from {} -->"
END = "<!-- end of numbers -->"
MARKED = re.compile(
    r"<!-- numbers from (?P<source>\S*) -->\n(?P<block>.*?)<!-- end of numbers -->", re.S
)
WITHOUT_RIVALS = "-"


def refuse(run: Run) -> None:
    """Unless the run is one that the README may show."""
    refuse_if_few(run.repetitions)
    refuse_if_loaded(run.load_before, run.shares)
    missing = [name for name, row in ROWS.items() if not _is_whole(run, row)]
    if missing:
        raise IncompleteRun(f"These rows have no figure of fabric: {', '.join(missing)}.")
    scaled = {
        name
        for name, row in ROWS.items()
        for system, count in run.samples.counts[name].items()
        if count != row.count_for(system)
    }
    if scaled:
        raise IncompleteRun(f"Measured with other counts: {', '.join(sorted(scaled))}.")
    few = {
        f"{row} of {system}"
        for (row, _), systems in run.samples.values.items()
        for system, values in systems.items()
        if len(values) < run.repetitions
    }
    if few:
        raise IncompleteRun(f"Some repetitions are missing: {', '.join(sorted(few))}.")


def _is_whole(run: Run, row: Row) -> bool:
    return all(run.samples.median(row.name, name, "fabric") is not None for name in row.metrics)


def write(run: Run, source: Path) -> None:
    """Put the run that is kept there into the README and its picture."""
    refuse(run)
    if not source.resolve().is_relative_to(ROOT):
        raise IncompleteRun(f"{source} is not in the project, where a test could find it.")
    text = README.read_text()
    if MARKED.search(text) is None:
        raise IncompleteRun(f"The README has no place for numbers: {BEGIN.format('')} … {END}")
    marked = f"{BEGIN.format(source.resolve().relative_to(ROOT))}\n{block(run)}{END}"
    PICTURE.write_text(drawn(run))
    README.write_text(MARKED.sub(lambda _: marked, text))


def shown_in(text: str) -> tuple[str, str]:
    """The source that the README names, and what stands between its markers."""
    found = MARKED.search(text)
    assert found is not None, "the README has no markers for its numbers"
    return found["source"], found["block"]


def block(run: Run) -> str:
    """What stands between the markers."""
    picture_path = PICTURE.relative_to(ROOT)
    lines = [
        "",
        conditions(run),
        "",
        f"![How many times better than the best other system, row by row]({picture_path})",
        "",
        "| | | fabric | Ray | best other | x best | bare |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    lines += [line for row in run.rows for line in _lines(run, row)]
    return "\n".join([*lines, "", ""])


def conditions(run: Run) -> str:
    """Under which the numbers were found."""
    peers = [f"{name} {version}" for name, version in run.versions.items() if name != "fabric"]
    machine = run.machine
    return (
        f"Medians of {run.repetitions} repetitions, taken by turns in one run: "
        f"{machine['cpus']} cores of {machine['model']}, {machine['memory_gb']} GB, "
        f"Linux {machine['kernel'].split('-')[0]}, Python {machine['python']}, "
        f"{machine['time'][:10]}, commit {run.commit}. Two workers each. "
        f"Against {', '.join(peers)}."
    )


def _lines(run: Run, row: Row) -> list[str]:
    found, samples = [], run.samples
    for name, metric in row.metrics.items():
        if not metric.is_shown:
            continue
        others = [system for system in run.versions if system not in ("fabric", "ray")]
        rivals = {
            system: value
            for system in others
            if (value := samples.median(row.name, name, system)) is not None
        }
        best = ""
        if rivals:
            first = max if metric.better == "more" else min
            system = first(rivals, key=lambda each: rivals[each])
            best = f"{system} {number(rivals[system])}"
        elif said := [samples.said.get(row.name, {}).get(system) for system in others]:
            best = next((word for word in said if word), WITHOUT_RIVALS)
        factor = samples.factor(row.name, metric, name)
        bare = samples.median(row.name, name, BARE)
        cells = [
            title(row, name, samples.counts.get(row.name, {})),
            metric.unit,
            f"**{cell(samples, row, name, 'fabric')}**",
            cell(samples, row, name, "ray"),
            best,
            "" if factor is None else number(factor),
            "" if bare is None else f"{row.bare_name} {number(bare)}",
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found


def drawn(run: Run) -> str:
    """The picture: the first metric of each row that has a rival."""
    bars = []
    for row in run.rows:
        name, metric = next(iter(row.metrics.items()))
        factor, best = (
            run.samples.factor(row.name, metric, name),
            run.samples.best(row.name, metric, name),
        )
        if factor is not None and best is not None:
            bars.append(Bar(row.title.format(f"{row.count:,}"), factor, best[0]))
    return picture(bars, "fabric: how many times better than the best other system of that row")


def read(path: Path) -> Run:
    return run_of(path.read_text())
