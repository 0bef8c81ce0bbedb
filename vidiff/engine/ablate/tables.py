"""The tables of a report: what to read, and every number unrounded as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from vidiff.engine.ablate.folders import Folder
from vidiff.engine.ablate.grid import GridFile
from vidiff.engine.ablate.paper import Table
from vidiff.engine.ablate.results import DIFFERENCE, Result, Row
from vidiff.engine.log import duration
from vidiff.engine.profile import human


def table(grid: GridFile, rows: Sequence[Row]) -> Table:
    """The table to read: the metric, and paired differences to the baseline over seeds and over clips."""
    costs = [row.cost for row in rows if row.cost]
    with_cost = len({c.parameters for c in costs}) > 1 or len({c.training_flops for c in costs}) > 1
    with_clips = any(row.clip_differences for row in rows)
    with_draws = len({row.evaluations for row in rows if row.evaluations}) > 1
    best = _best(grid, rows)
    if grid.metric == DIFFERENCE:
        return _table_of_samples(grid, rows)
    sd = " ± sd" if len(grid.seeds) > 1 else ""
    head = [*(axis.name for axis in grid.axes), "seeds", f"{grid.metric}{sd}", f"difference{sd}", "in %"]
    head += ["per clip ± se", "clips better"] if with_clips else []
    head += ["parameters", "FLOPs/clip"] if with_cost else []
    head += ["evaluations"] if with_draws else []
    lines = []
    for row in rows:
        line = [*(p.label for p in row.arm.points), f"{len(row.values)}/{row.wanted}"]
        shown = pm(row.mean, row.spread)
        line.append(f"**{shown}**" if row is best else shown)
        if row.is_baseline:
            line += ["baseline", ""]
        else:
            line += [pm(row.difference, row.difference_spread, sign=True), _percent(row)]
        if with_clips:
            told = row.clip_differences and not row.is_baseline
            line += [pm(row.difference, row.clip_error, sign=True) if told else ""]
            line += [f"{row.clips_better(grid.better)}/{len(row.clip_differences)}" if told else ""]
        if with_cost:
            line += [f"{row.cost.parameters:,}", human(row.cost.training_flops)] if row.cost else ["", ""]
        if with_draws:
            line += [str(row.evaluations or "")]
        lines.append(line)
    return Table(head, lines, words=len(grid.axes))


def _table_of_samples(grid: GridFile, rows: Sequence[Row]) -> Table:
    """Where the metric is a difference to the baseline already: the metric, and its error over samples."""
    sd = " ± sd" if len(grid.seeds) > 1 else ""
    head = [*(axis.name for axis in grid.axes), "seeds", f"{grid.metric}{sd}", "per sample ± se", "evaluations"]
    lines = [
        [*(p.label for p in row.arm.points), f"{len(row.values)}/{row.wanted}",
         "baseline" if row.is_baseline else pm(row.mean, row.spread),
         "" if row.is_baseline else pm(row.difference, row.clip_error), str(row.evaluations or "")]
        for row in rows
    ]  # fmt: skip
    return Table(head, lines, words=len(grid.axes))


def table_csv(grid: GridFile, rows: Sequence[Row]) -> str:
    """Every number of every arm, unrounded; a line per arm."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    seeds = [f"{grid.metric}[seed {s}]" for s in grid.seeds]
    writer.writerow(
        [*(axis.name for axis in grid.axes), "baseline", "seeds", "metric", "mean", "sd", "difference", "difference_sd",
         "clips", "clip_se", "clips_better", "parameters", "training_flops_per_clip", "train_loss", "run_seconds",
         "evaluations", "seconds_per_sample", *seeds]
    )  # fmt: skip
    for row in rows:
        clips = len(row.clip_differences) if not row.is_baseline else 0
        writer.writerow(
            [*(p.label for p in row.arm.points), row.baseline.label, len(row.values), grid.metric, row.mean, row.spread,
             row.difference, row.difference_spread, clips or None, row.clip_error,
             row.clips_better(grid.better) if clips else None, row.cost and row.cost.parameters,
             row.cost and row.cost.training_flops, row.train_loss, row.seconds, row.evaluations, row.draw_seconds,
             *(row.values.get(s) for s in grid.seeds)]
        )  # fmt: skip
    return out.getvalue()


def cell_table(folder: Folder, results: Sequence[Result]) -> Table:
    """Where every cell is and how far."""
    lines = [
        [r.cell.label, r.state.name, f"{r.state.step}/{r.cell.config.train.steps}", number(r.value(folder.grid.metric)),
         duration(r.seconds) if r.seconds else "", f"`{r.cell.run}`"]
        for r in results
    ]  # fmt: skip
    return Table(["cell", "state", "step", folder.grid.metric, "time", "folder"], lines, words=2)


def _best(grid: GridFile, rows: Sequence[Row]) -> Row | None:
    known = [row for row in rows if row.mean is not None and len(rows) > 1]
    sign = -1 if grid.better == "higher" else 1
    return min(known, key=lambda row: sign * row.mean) if known else None


def _percent(row: Row) -> str:
    base = None if row.mean is None or row.difference is None else row.mean - row.difference
    if not base or row.differences.keys() != row.values.keys():
        return ""
    return f"{round(100 * row.difference / base, 1) or 0.0:+.1f}"  # no -0.0


def number(value: float | None) -> str:
    """Four digits, zeros at the end included, or nothing."""
    return "" if value is None else f"{value:#.4g}".removesuffix(".")


def pm(value: float | None, spread: float | None, sign: bool = False) -> str:
    """`0.1234 ± 0.0056`: the spread to two digits, the value to the same place."""
    if value is None:
        return ""
    if not spread or spread < 1e-9 * abs(value):
        return f"{'+' if sign and value >= 0 else ''}{number(value)}"
    places = max(0, 1 - _magnitude(spread))
    return (
        f"{value:{'+' if sign else ''}.{places}f} ± {spread:.{places}f}"
        if places < 9
        else f"{value:.3e} ± {spread:.1e}"
    )


def _magnitude(value: float) -> int:
    return int(f"{abs(value):e}".partition("e")[2])
