"""The report: a table with paired differences, plots and samples, as Markdown, CSV and one self-contained page.

Intervals and verdicts come in a later step; their place is beside the differences of the table.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vidiff.building import Plan, build_dataset
from vidiff.engine.ablate.cells import Cell
from vidiff.engine.ablate.folders import FAILED, Folder, by_run
from vidiff.engine.ablate.grid import Arm
from vidiff.engine.ablate.paper import Block, Heading, Literal, Picture, Points, Words, markdown, page
from vidiff.engine.ablate.pictures import plot_cost, plot_curves, plot_levels, plot_metric, side_by_side
from vidiff.engine.ablate.remarks import different, legend, remarks, trainings
from vidiff.engine.ablate.results import Result, Row, read_results, rows_of
from vidiff.engine.ablate.tables import cell_table, table, table_csv
from vidiff.engine.checkpoint import write_atomic
from vidiff.engine.data import first_clips
from vidiff.engine.log import duration
from vidiff.engine.profile import Cost
from vidiff.engine.run import take_lock


def write_report(folder: Folder, cells: Sequence[Cell], plans: Mapping[Arm, Plan], costs: Mapping[Arm, Cost]) -> Path:
    """Write report/ from what the run folders hold: report.md, table.csv, plots/, samples and index.html.

    Raises Refused while another process writes it.
    """
    folder.report.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder.report)
    try:
        return _write(folder, cells, plans, costs)
    finally:
        lock.close()


def _write(folder: Folder, cells: Sequence[Cell], plans: Mapping[Arm, Plan], costs: Mapping[Arm, Cost]) -> Path:
    results = read_results(folder, cells)
    rows = rows_of(folder.grid, results, costs)
    for old in (*folder.report.glob("plots/*.png"), *folder.report.glob("samples.*")):
        old.unlink()  # what this report does not have must not be left of an earlier one
    blocks = _blocks(folder, results, rows, plans)
    write_atomic(folder.report / "table.csv", table_csv(folder.grid, rows))
    write_atomic(folder.report / "report.md", markdown(blocks, folder.report))
    write_atomic(folder.report / "index.html", page(blocks, folder.grid.name))
    return folder.report / "index.html"


def _blocks(folder: Folder, results: Sequence[Result], rows: Sequence[Row], plans: Mapping[Arm, Plan]) -> list[Block]:
    grid = folder.grid
    blocks: list[Block] = [Heading(grid.name, 1)]
    blocks += [Words(grid.description)] if grid.description else []
    blocks += [Words(_summary(folder, results)), table(grid, rows), Words(legend(grid, rows, results), small=True)]
    blocks += [Points(notes)] if (notes := remarks(folder, results, rows)) else []
    blocks += _plots(folder, results, rows)
    blocks += _samples(folder, results, rows, plans)
    blocks += _failures(results)
    blocks += [Heading("Cells"), cell_table(folder, results), Words(_reproduce(folder, results), small=True)]
    blocks += [Heading("The grid"), Literal(grid.path.read_text(encoding="utf-8"))]
    return [*blocks, Words(f"Changed when it was called: `{shlex.join(grid.typed)}`.")] if grid.typed else blocks


def _summary(folder: Folder, results: Sequence[Result]) -> str:
    grid = folder.grid
    finished = sum(r.finished for r in results)
    seconds = sum(folder.ledger().get(run, {}).get("seconds", 0.0) for run in by_run([r.cell for r in results]))
    varied = " × ".join(f"`{axis.name}` ({len(axis.points)})" for axis in grid.axes) or "One arm"
    steps = sorted({r.cell.config.train.steps for r in results})
    clips = sorted({r.cell.config.train.batch_size for r in results})
    return (
        f"{varied}, {_count(len(grid.seeds), 'seed')}: {finished} of {_count(len(results), 'cell')} finished, "
        f"{_span(steps)} steps of {_span(clips)} clips each, {duration(seconds)} of computing in all. "
        f"Base: `{grid.base.name}`. The number compared is `{grid.metric}`, {grid.better} is better."
    )


def _plots(folder: Folder, results: Sequence[Result], rows: Sequence[Row]) -> list[Block]:
    grid, plots = folder.grid, folder.report / "plots"
    if not any(row.values for row in rows):
        return []
    blocks: list[Block] = [
        Heading("Seeds and differences"),
        Picture(
            plot_metric(plots / "metric.png", grid, rows), "Dots are seeds, bars their mean; differences are paired."
        ),
    ]
    own_units = len(different(results, "objective")) > 1
    caption = "Over training: thin lines are seeds, thick ones their mean."
    curves = plot_curves(plots / "curves.png", grid, rows, results, own_units)
    blocks += [Heading("Curves"), Picture(curves, caption)] if curves else []
    levels = plot_levels(plots / "levels.png", rows, results) if trainings(results) > 1 else None
    caption = "At which noise levels arms differ: mean over seeds, unguided, averaged weights."
    blocks += [Heading("By noise level"), Picture(levels, caption)] if levels else []
    cost = plot_cost(plots / "cost.png", grid, rows)
    blocks += (
        [Heading("Against cost"), Picture(cost, "Arms are not matched in compute: read both axes.")] if cost else []
    )
    return blocks


def _samples(folder: Folder, results: Sequence[Result], rows: Sequence[Row], plans: Mapping[Arm, Plan]) -> list[Block]:
    """The samples of the first seed, the same noise and condition in every column."""
    seed = folder.grid.seeds[0]
    drawn = [r for r in results if r.cell.seed == seed and r.drawn and r.finished]
    if not (drawn and folder.pictures and folder.grid.samples):
        return []
    videos = {r.cell.arm.label: _videos(r, folder.grid.samples) for r in drawn}
    same = [label for label, v in videos.items() if v.shape == next(iter(videos.values())).shape]
    held_out = first_clips(build_dataset(plans[drawn[0].cell.arm].config, "val"), folder.grid.samples)
    real = torch.stack([torch.as_tensor(clip["video"]) for clip in held_out])
    gif, png = side_by_side(folder.report, real, {label: videos[label] for label in same})
    left = (
        f" Of another size and left out: {', '.join(sorted(set(videos) - set(same)))}."
        if len(same) < len(videos)
        else ""
    )
    shared = "noise and condition" if len(different(results, "conditioner")) == 1 else "noise"
    return [
        Heading("Samples"),
        Picture(gif, f"A column is one sample seed: the same {shared} for every arm (run seed {seed}).{left}"),
        Picture(png, "Frames of the first two sample seeds."),
    ]


def _videos(result: Result, count: int) -> Tensor:
    return torch.stack([torch.from_numpy(result.video(row)) for row in range(count)])


def _failures(results: Sequence[Result]) -> list[Block]:
    failed = {r.cell.run: r for r in results if r.state.name == FAILED}
    blocks: list[Block] = [Heading("Failed")] if failed else []
    for run, result in failed.items():
        blocks += [Words(f"**{run}**: {result.state.reason}. The last lines of its log:")]
        blocks += [Literal("\n".join(result.last_lines))]
    return blocks


def _reproduce(folder: Folder, results: Sequence[Result]) -> str:
    started = [r for r in results if r.threads]
    if not started:
        return ""
    r = started[0]
    where = f"{r.device}, {r.threads} thread{'s' * (r.threads > 1)} a run, revision {r.revision}"
    return (
        f"Made by `{folder.command}` ({where}). Times are those of the machine as it "
        f"was, with what else ran on it. All curves over each other: `tensorboard --logdir {folder.path}`."
    )


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


def _span(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
