"""The grids that are shipped can be run as they are, and the report in the docs is of the grid it names."""

import csv
import functools
from pathlib import Path

import pytest

import zoo  # noqa: F401
from vidiff.engine.ablate.cells import SAMPLING, cells_of, check
from vidiff.engine.ablate.folders import by_run
from vidiff.engine.ablate.reading import read_grid
from vidiff.engine.ablate.results import DIFFERENCE
from vidiff.engine.parallel import world

ROOT = Path(__file__).resolve().parents[2]
GRIDS = sorted((ROOT / "projects/ablations").glob("*.yaml"))


@functools.cache
def checked(name):
    """(grid, cells, cost of every arm) of a shipped grid; planning is the slow part."""
    grid = read_grid(ROOT / f"projects/ablations/{name}.yaml")
    cells = cells_of(grid)
    return grid, cells, check(grid, cells, world("cpu"))[1]


@pytest.mark.parametrize("name", [path.stem for path in GRIDS])
def test_every_cell_can_be_built(name):
    grid, _, costs = checked(name)
    assert len(costs) == len(grid.arms()) > 1
    assert all(grid.baseline_of(arm) in costs for arm in costs)


def test_the_samplers_are_drawn_from_one_training():
    grid, cells, _ = checked("samplers")
    assert set(SAMPLING) >= {"sampler", "guidance"} and "attention" not in SAMPLING
    assert len(by_run(cells)) == 1 and grid.metric == DIFFERENCE
    assert len({c.draw for c in cells}) == len(cells)


def test_the_variants_of_latte_have_about_as_many_parameters():
    _, _, costs = checked("latte_variants")
    counts = [cost.parameters for cost in costs.values()]
    assert len(counts) == 4 and max(counts) < 1.05 * min(counts)


def test_the_report_in_the_docs_is_of_the_quick_grid():
    grid = read_grid(ROOT / "projects/ablations/quick.yaml")
    folder = ROOT / "docs/ablations/quick"
    lines = list(csv.DictReader((folder / "table.csv").open()))
    assert [line["label"] for line in lines] == [arm.label for arm in grid.arms()]
    assert {line["seeds"] for line in lines} == {str(len(grid.seeds))}
    page, text = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    assert grid.path.read_text().strip() in text and "http" not in page
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 2e6
