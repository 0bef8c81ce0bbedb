"""The numbers of a report against a hand's computation, and its words against what a reader must know."""

import csv
import io
import json
import math

import numpy as np
import pytest

import zoo  # noqa: F401
from vidiff.building import plan
from vidiff.engine.ablate.cells import cells_of
from vidiff.engine.ablate.folders import Folder
from vidiff.engine.ablate.pictures import levels_of, mean_curve
from vidiff.engine.ablate.reading import read_grid
from vidiff.engine.ablate.remarks import remarks
from vidiff.engine.ablate.report import write_report
from vidiff.engine.ablate.results import DIFFERENCE, read_results, rows_of
from vidiff.engine.ablate.tables import pm, table, table_csv

GRID = """\
base: tiny.yaml
set: {train.steps: 5}
grid: {optimizer.lr: [0.001, 0.01]}
seeds: [0, 1]
report: {samples: 2}
"""

# seed -> clip -> level, of val/x0_error: the base and the other arm
BASE = {0: [[1.0, 3.0], [2.0, 4.0], [0.0, 2.0]], 1: [[2.0, 4.0], [3.0, 5.0], [1.0, 3.0]]}
OTHER = {0: [[0.5, 2.5], [2.0, 5.0], [0.0, 1.0]], 1: [[2.0, 3.0], [3.0, 6.0], [1.0, 2.0]]}


@pytest.fixture
def made(tmp_path, yaml_file):
    """made(grid text, {(arm number, seed): errors}): folder and cells, with run folders that look finished."""

    def make(text=GRID, errors=None, videos=True):
        file = tmp_path / "grid.yaml"
        file.write_text(text)
        grid = read_grid(file)
        folder, cells = Folder(tmp_path / "out", grid), cells_of(grid)
        folder.path.mkdir(exist_ok=True)
        arms = list(dict.fromkeys(c.arm for c in cells))
        for cell in cells:
            values = (errors or {(0, 0): BASE[0], (0, 1): BASE[1], (1, 0): OTHER[0], (1, 1): OTHER[1]}).get(
                (arms.index(cell.arm), cell.seed)
            )
            if values is not None:
                finish(folder, cell, values)
                if videos:
                    draw(folder, cell, arms.index(cell.arm))
        (folder.path / "command.txt").write_text(
            "2026-01-01T00:00:00+00:00  python tools/ablate.py grid.yaml --jobs 2\n"
        )
        return folder, cells

    return make


def finish(folder, cell, clips):
    """The files of a finished run with these errors."""
    run = folder.run(cell)
    (run / "eval").mkdir(parents=True, exist_ok=True)
    mean = float(np.mean(clips))
    events = [{"step": 3, "val/x0_error": 9.0}, {"step": 5, "train/loss": 0.5, "val/x0_error": mean}]
    for i, level in enumerate((-1, 2)):
        events[1][f"val/x0_error/logsnr_{level}"] = float(np.mean([c[i] for c in clips]))
    (run / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    (run / "status.json").write_text(json.dumps({"status": "finished", "step": 5}))
    (run / "env.json").write_text(json.dumps({"threads": 1, "device_name": "a machine", "revision": "abc"}))
    record = {"tag": "val/x0_error", "step": 5, "levels": [-1.0, 2.0], "clips": clips}
    (run / "eval/x0_error.json").write_text(json.dumps(record))


def draw(folder, cell, arm):
    """Two samples whose pixels are 51 (a fifth of the range) brighter per arm, the second one twice that."""
    out = folder.draw(cell)
    out.mkdir(parents=True, exist_ok=True)
    for row in range(2):
        np.save(out / f"sample_{row:04d}.npy", np.full((1, 4, 16, 16), 51 * arm * (1 + row), np.uint8))
    record = {"rows": [0, 1], "seconds": 3.0, "evaluations": 7}
    (out / "samples.json").write_text(json.dumps(record))


def test_means_spreads_and_paired_differences(made):
    """Means 2, 3 and 11/6, 17/6: the differences are -1/6 for either seed; clips differ by -1/2, 1/2, -1/2."""
    folder, cells = made()
    base, other = rows_of(folder.grid, read_results(folder, cells), {})
    assert base.is_baseline and base.difference is None and base.clip_error is None
    assert base.values == pytest.approx({0: 2.0, 1: 3.0}) and base.mean == pytest.approx(2.5)
    assert base.spread == pytest.approx(math.sqrt(0.5))
    assert other.mean == pytest.approx(14 / 6) and other.spread == pytest.approx(math.sqrt(0.5))
    assert other.differences == pytest.approx({0: -1 / 6, 1: -1 / 6}) and other.difference == pytest.approx(-1 / 6)
    assert other.difference_spread == pytest.approx(0.0, abs=1e-12)
    assert other.clip_differences == pytest.approx([-0.5, 0.5, -0.5])
    assert other.clip_error == pytest.approx(math.sqrt(1 / 3) / math.sqrt(3))  # sd of -1/2, 1/2, -1/2 is sqrt(1/3)
    assert other.clips_better("lower") == 2 and other.clips_better("higher") == 1
    assert other.evaluations == 7 and other.draw_seconds == 1.5 and other.train_loss == 0.5


def test_pairs_are_of_seeds_that_both_have(made):
    folder, cells = made(errors={(0, 0): BASE[0], (0, 1): BASE[1], (1, 1): OTHER[1]})
    results = read_results(folder, cells)
    _, other = rows_of(folder.grid, results, {})
    assert other.values == pytest.approx({1: 17 / 6}) and other.differences == pytest.approx({1: -1 / 6})
    assert other.spread is None and other.wanted == 2
    assert other.clip_differences == pytest.approx([-0.5, 0.5, -0.5])
    assert "1 of 4 cells are not finished and not in the table's means." in remarks(folder, results, [other])


def test_a_seed_without_its_baseline_counts_in_the_mean_only(made):
    folder, cells = made(errors={(0, 1): BASE[1], (1, 0): OTHER[0], (1, 1): OTHER[1]})
    _, other = rows_of(folder.grid, read_results(folder, cells), {})
    assert other.mean == pytest.approx(14 / 6) and other.differences == pytest.approx({1: -1 / 6})


def test_panels_of_other_sizes_are_not_paired(made):
    folder, cells = made(errors={(0, 0): BASE[0], (0, 1): BASE[1], (1, 0): OTHER[0][:2], (1, 1): OTHER[1]})
    _, other = rows_of(folder.grid, read_results(folder, cells), {})
    assert other.clip_differences == [] and other.clip_error is None


def test_distances_of_samples_are_paired_by_seed(made):
    """Grey levels differ by 51 and 102 of 255: rms 0.2 and 0.4, mean 0.3."""
    folder, cells = made(GRID.replace("samples: 2", f"samples: 2, metric: {DIFFERENCE}"))
    results = read_results(folder, cells)
    base, other = rows_of(folder.grid, results, {})
    assert base.mean == 0.0 and other.mean == pytest.approx(0.3)
    shown = table(folder.grid, [base, other])
    assert shown.head[2:] == [f"{DIFFERENCE} ± sd", "per sample ± se", "evaluations"]
    assert [row[1:] for row in shown.rows] == [["2/2", "baseline", "", "7"], ["2/2", "0.3000", "0.30 ± 0.10", "7"]]
    assert results[2].clips[DIFFERENCE] == pytest.approx([0.2, 0.4])


def test_curves_and_levels_are_means_over_seeds(made):
    folder, cells = made()
    results = read_results(folder, cells)
    assert mean_curve([r.curve("val/x0_error") for r in results[:2]]) == ([3, 5], [9.0, pytest.approx(2.5)])
    assert mean_curve([([1, 2], [0.0, 4.0]), ([2, 3], [6.0, 8.0])]) == ([2], [5.0])
    assert levels_of(results[:2]) == {-1.0: pytest.approx(1.5), 2.0: pytest.approx(3.5)}


def test_the_table_and_the_csv(made):
    folder, cells = made()
    rows = rows_of(folder.grid, read_results(folder, cells), {})
    shown = table(folder.grid, rows)
    assert shown.head[:5] == ["optimizer.lr", "seeds", "val/x0_error ± sd", "difference ± sd", "in %"]
    assert shown.rows[0][:4] == ["lr=0.001", "2/2", "2.50 ± 0.71", "baseline"]
    assert shown.rows[1][:3] == ["lr=0.01", "2/2", "**2.33 ± 0.71**"]
    assert shown.rows[1][4:7] == ["-6.7", "-0.17 ± 0.33", "2/3"]
    lines = list(csv.DictReader(io.StringIO(table_csv(folder.grid, rows))))
    assert float(lines[1]["difference"]) == pytest.approx(-1 / 6) and lines[0]["difference"] == ""
    assert float(lines[1]["val/x0_error[seed 1]"]) == pytest.approx(17 / 6) and lines[1]["clips_better"] == "2"


@pytest.mark.parametrize(
    ("value", "spread", "sign", "shown"),
    [
        (0.123456, 0.0123, False, "0.123 ± 0.012"),
        (-0.5, 0.25, True, "-0.50 ± 0.25"),
        (12345.6, 340.0, False, "12346 ± 340"),
        (0.123456, None, True, "+0.1235"),
        (None, None, False, ""),
        (0.5, 0.0, False, "0.5000"),
        (0.5, 1e-17, False, "0.5000"),
        (-1234.4, None, True, "-1234"),
    ],
)
def test_a_number_is_shown_as_far_as_its_spread_allows(value, spread, sign, shown):
    assert pm(value, spread, sign) == shown


def test_losses_of_different_objectives_are_not_ranked(made):
    folder, cells = made(
        GRID.replace("optimizer.lr: [0.001, 0.01]", "objective: [rectified_flow, epsilon]").replace(
            "samples: 2", "samples: 2, metric: train/loss"
        )
    )
    results = read_results(folder, cells)
    notes = " ".join(remarks(folder, results, rows_of(folder.grid, results, {})))
    assert "are not compared. **`train/loss` is such a loss: this table does not rank objectives.**" in notes


def test_unequal_threads_and_a_metric_nobody_recorded_are_said(made):
    folder, cells = made(GRID.replace("samples: 2", "samples: 2, metric: val/x0_eror"))
    env = folder.run(cells[0]) / "env.json"
    env.write_text(env.read_text().replace('"threads": 1', '"threads": 2'))
    results = read_results(folder, cells)
    notes = " ".join(remarks(folder, results, rows_of(folder.grid, results, {})))
    assert "Cells ran with different CPU threads (1, 2): bits depend on them." in notes
    assert "No cell has recorded 'val/x0_eror'. Did you mean 'val/x0_error'?" in notes


def test_the_report_holds_everything_itself(made):
    folder, cells = made()
    plans = {cell.arm: plan(cell.config) for cell in cells[::2]}
    page = write_report(folder, cells, plans, {})
    text = page.read_text()
    assert {p.name for p in folder.report.iterdir()} - {".lock"} == {
        "index.html", "report.md", "table.csv", "plots", "samples.gif", "samples.png",
    }  # fmt: skip
    assert {p.name for p in (folder.report / "plots").iterdir()} == {"metric.png", "curves.png", "levels.png"}
    assert text.count('src="data:image/') == 5 and "http" not in text and 'src="plots' not in text
    assert "<code>python tools/ablate.py grid.yaml --jobs 2</code>" in text
    assert "<th class=words>" in text and "<td class=words>" in text and "<td>" in text
    assert "2.50 ± 0.71" in text and "optimizer.lr: [0.001, 0.01]" in text
    assert "![" in (folder.report / "report.md").read_text()


def test_a_report_of_nothing_says_so(made):
    folder, cells = made(errors={(9, 9): []})
    plans = {cell.arm: plan(cell.config) for cell in cells[::2]}
    text = write_report(folder, cells, plans, {}).read_text()
    assert "4 of 4 cells are not finished" in text and "<img" not in text
