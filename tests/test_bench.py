"""The bench works: every row of fabric runs, and what is made of figures is right.

How fast anything is, is not asserted anywhere.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import quiet, readme
from bench.peers import PEERS
from bench.picture import Bar, picture
from bench.report import Run, number, table, title
from bench.rows import Metric, Row, Target, rate, spent
from bench.samples import Samples
from bench.soak import Memory, Phase
from bench.table import ROWS

ROOT = Path(__file__).resolve().parent.parent
TINY = 0.002


def run_bench(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == status, (done.stdout[-2000:], done.stderr[-2000:])
    return done


# -- it runs


@pytest.mark.system
@pytest.mark.parametrize("start", ["started", "shared", "cold"])
def test_each_row_of_fabric_finds_every_figure_it_promises(start: str) -> None:
    rows = [row for row in ROWS.values() if row.start == start]
    hear, say = os.pipe()
    words = ["fabric", *[row.name for row in rows], "--scale", str(TINY), "--out", str(say)]
    command = [sys.executable, "-m", "bench.repetition", *words]
    with open(hear) as heard:
        subprocess.run(command, cwd=ROOT, pass_fds=[say], timeout=50, check=True)
        os.close(say)
        findings = [json.loads(line) for line in heard]
    assert [(finding["row"], sorted(finding["figures"])) for finding in findings] == [
        (row.name, sorted(row.metrics)) for row in rows
    ]


@pytest.mark.system
def test_a_run_takes_turns_and_keeps_what_came_out(tmp_path: Path) -> None:
    kept = tmp_path / "run.json"
    words = ("--rows", "nothing,latency", "--peers", "fabric,Pool", "--scale", str(TINY))
    run_bench(*words, "--reps", "2", "--json", str(kept))
    found = json.loads(kept.read_text())
    samples = found["rows"]["latency"]["samples"]["median"]
    assert {system: len(values) for system, values in samples.items()} == {
        "fabric": 2,
        "Pool": 2,
        "bare": 2,
    }
    assert list(found["versions"]) == ["fabric", "Pool"]
    assert len(found["shares"]) == 2


def test_a_peer_that_was_not_measured_has_no_column() -> None:
    run = a_run(rows=[ROWS["nothing"]])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(run))
    heading = console.export_text().splitlines()[1].split()
    assert [word for word in heading if word in PEERS] == list(run.versions)


def test_the_readme_is_refused_after_too_few_repetitions() -> None:
    done = run_bench("--readme", "--reps", "4", status=quiet.TooFewRepetitions.status)
    assert done.stderr.startswith("TooFewRepetitions: 4 repetitions are too few")


# -- what is made of figures


def a_row(better: str, *targets: Target) -> tuple[Row, Metric]:
    metric = rate("", *targets) if better == "more" else spent("", "s", *targets)
    return Row("r", "{} calls", "f", {"m": metric}, lambda peer, count: {}, 1000), metric


def samples_of(**values: float) -> Samples:
    samples = Samples()
    for system, value in values.items():
        for each in (value / 2, value, value * 3):
            samples.add(system, {"row": "r", "count": 1000, "figures": {"m": each}})
    return samples


@pytest.mark.parametrize(
    ("better", "target", "fabric", "is_met"),
    [
        ("more", Target(50, "ray"), 100.0, True),
        ("more", Target(50, "ray"), 99.0, False),
        ("less", Target(0.5, "ray"), 1.0, True),
        ("less", Target(0.5, "ray"), 1.1, False),
        ("more", Target(1, "best"), 8.0, True),
        ("more", Target(1, "best"), 7.0, False),
        ("more", Target(1, "bare"), 9.0, False),
        ("less", Target(12), 12.0, True),
        ("less", Target(12), 13.0, False),
        ("less", Target(1, "dask"), 1.0, None),
    ],
)
def test_a_target_is_compared_with_the_medians_of_the_same_run(
    better: str, target: Target, fabric: float, is_met: bool | None
) -> None:
    _, metric = a_row(better, target)
    samples = samples_of(fabric=fabric, ray=2.0, Pool=8.0, bare=10.0)
    assert samples.is_met("r", metric, "m") is is_met


@pytest.mark.parametrize(
    ("better", "factor", "rival"), [("more", 2.0, "Pool"), ("less", 0.125, "ray")]
)
def test_the_factor_compares_with_the_best_of_the_others(
    better: str, factor: float, rival: str
) -> None:
    _, metric = a_row(better)
    samples = samples_of(fabric=16.0, ray=2.0, Pool=8.0, bare=100.0)
    assert samples.factor("r", metric, "m") == factor
    best = samples.best("r", metric, "m")
    assert best is not None
    assert best[0] == rival


def test_who_had_fewer_calls_is_named_in_the_row() -> None:
    row, _ = a_row("more")
    assert title(row, "m", {"fabric": 1000, "ray": 50, "Pool": 1000}) == "1,000 calls (ray 50)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (1234.5, "1,234"), (56.78, "56.8"), (0.0123, "0.012"), (3.0, "3")],
)
def test_numbers_have_three_digits_that_mean_something(value: float | None, text: str) -> None:
    assert number(value) == text


def test_rows_name_peers_that_exist() -> None:
    for row in ROWS.values():
        assert {*row.peers, *row.fewer} <= {*PEERS}
        for metric in row.metrics.values():
            assert {target.of for target in metric.targets} <= {*PEERS, "best", "bare", ""}


# -- refusals and the README


def a_run(**changed: Any) -> Run:
    samples = Samples()
    for row in ROWS.values():
        for _ in range(5):
            for factor, system in enumerate(("fabric", "ray", "Pool", "bare"), 1):
                figures = dict.fromkeys(row.metrics, 10.0 * factor)
                count = row.count_for(system)
                samples.add(system, {"row": row.name, "count": count, "figures": figures})
    machine = {
        "cpus": 2,
        "model": "Some CPU",
        "memory_gb": 8,
        "kernel": "6.1",
        "python": "3.11.7",
        "time": "2026-01-02T03:04:05Z",
    }
    versions = {"fabric": "0.1", "ray": "2.0", "Pool": "3.11.7"}
    parts: dict[str, Any] = {
        "samples": samples,
        "rows": list(ROWS.values()),
        "versions": versions,
        "repetitions": 5,
        "commit": "abc",
        "machine": machine,
        "load_before": 0.1,
        "shares": [0.99] * 5,
    }
    return Run(**{**parts, **changed})


def a_run_without(row: str) -> Run:
    run = a_run()
    del run.samples.values[row, next(iter(ROWS[row].metrics))]
    return run


def a_scaled_run() -> Run:
    run = a_run()
    run.samples.counts["chain"]["fabric"] = 7
    return run


@pytest.mark.parametrize(
    ("run", "refusal"),
    [
        (a_run(repetitions=4), quiet.TooFewRepetitions),
        (a_run(load_before=1.0), quiet.LoadedMachine),
        (a_run(shares=[0.99, 0.99, 0.5, 0.99, 0.99]), quiet.LoadedMachine),
        (a_run(shares=[0.9] * 5), quiet.LoadedMachine),
        (a_run_without("chain"), quiet.IncompleteRun),
        (a_scaled_run(), quiet.IncompleteRun),
    ],
)
def test_a_run_that_proves_nothing_is_refused(run: Run, refusal: type[quiet.Refusal]) -> None:
    with pytest.raises(refusal):
        readme.refuse(run)


def test_a_run_is_written_between_the_markers_and_read_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(readme, "PICTURE", tmp_path / "numbers.svg")
    empty = f"before\n{readme.BEGIN.format('')}\n{readme.END}\nafter\n"
    (tmp_path / "README.md").write_text(empty)
    run, kept = a_run(), tmp_path / "run.json"
    kept.write_text(run.as_json())
    readme.write(run, kept)
    text = (tmp_path / "README.md").read_text()
    assert readme.shown_in(text) == ("run.json", readme.block(readme.read(kept)))
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_what_is_worse_than_the_best_points_to_the_left() -> None:
    drawn = picture([Bar("a", 10.0, "ray"), Bar("b", 0.5, "Pool")], "heading")
    kinds = [line.split('"')[1] for line in drawn.splitlines() if line.startswith("<rect")]
    assert kinds == ["better", "worse"]
    assert "0.50x</tspan> Pool" in drawn


# -- soak


def test_the_slope_of_a_soak_leaves_the_warm_up_out() -> None:
    def sample(megabytes: float) -> dict[str, Memory]:
        return {"node": Memory(0, 0, megabytes, 0)}

    phase = Phase("calls", [1000 * step for step in range(1, 11)])
    phase.samples = [sample(50.0), sample(90.0), *(sample(100 + 0.5 * n) for n in range(8))]
    assert phase.lasting() == ["node"]
    assert phase.slope_kb("node") == pytest.approx(500.0)


@pytest.mark.system
def test_a_soak_looks_at_every_process(tmp_path: Path) -> None:
    kept = tmp_path / "soak.json"
    words = ["--calls", "2000", "--actors", "2", "--json", str(kept)]
    command = [sys.executable, "-m", "bench.soak", *words]
    subprocess.run(command, cwd=ROOT, check=True, timeout=50, stdout=subprocess.DEVNULL)
    calls, actors = json.loads(kept.read_text())["phases"]
    assert (calls["counts"][-1], actors["counts"][-1]) == (2000, 2)
    kinds = {name.rpartition(" ")[0] for name in calls["samples"][-1]}
    assert kinds >= {"driver", "fabric:node", "fabric:control", "fabric:zygote", "fabric:worker"}
