"""What the cells have measured: per arm the mean and the spread over seeds, and paired differences to the baseline.

With m(a, s) the metric of arm a and seed s, b its baseline, S the seeds both have, and e(a, s, i) the error of clip i:

    mean      m(a) = mean_s m(a, s)                     spread    sd_s m(a, s), with n - 1
    difference     = mean_s in S  m(a, s) - m(b, s)     its spread   sd_s of the same differences
    per clip  d_i  = mean_s in S  e(a, s, i) - e(b, s, i)     standard error   sd_i(d_i) / sqrt(clips)

Cells share data order, noise, panel and sample seeds, so differences are of pairs: what a hard clip or an unlucky
seed adds to both falls out. Seeds say how far another training would end, clips how far another panel would.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidiff.engine.ablate.cells import Cell
from vidiff.engine.ablate.folders import FINISHED, Folder, State, read_json
from vidiff.engine.ablate.grid import Arm, GridFile
from vidiff.engine.log import read_journal
from vidiff.engine.profile import Cost

DIFFERENCE = "samples/difference"
"""A metric of the report's own: how far a cell's samples are from the baseline's of the same seeds."""


@dataclass
class Result:
    """One cell: how far it is and all that its folders tell."""

    cell: Cell
    state: State
    events: list[dict[str, Any]] = field(default_factory=list)
    clips: Mapping[str, list[float]] = field(default_factory=dict)
    """Values per clip, by tag."""
    drawn: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    threads: int = 0
    device: str = ""
    revision: str = ""
    last_lines: tuple[str, ...] = ()
    videos: Path | None = None
    extra: dict[str, float] = field(default_factory=dict)
    """Values the report computes itself."""

    @property
    def finished(self) -> bool:
        return self.state.name == FINISHED

    def value(self, tag: str) -> float | None:
        """The last value of a tag, of a finished cell."""
        if tag in self.extra:
            return self.extra[tag]
        found = [e[tag] for e in self.events if tag in e]
        return found[-1] if found and self.finished else None

    def curve(self, tag: str) -> tuple[list[int], list[float]]:
        """(steps, values) of a tag."""
        points = [(e["step"], e[tag]) for e in self.events if tag in e]
        return [s for s, _ in points], [v for _, v in points]

    def video(self, row: int) -> np.ndarray:
        """Sample number `row`, uint8 (C,T,H,W)."""
        return np.load(self.videos / f"sample_{row:04d}.npy", allow_pickle=False)


@dataclass
class Row:
    """One arm of the table."""

    arm: Arm
    baseline: Arm
    values: dict[int, float]
    """The metric by seed."""
    differences: dict[int, float]
    """Minus the baseline's, by the seeds that both have."""
    clip_differences: list[float]
    """The mean over seeds of the difference, per clip."""
    wanted: int
    """How many seeds there are to be."""
    cost: Cost | None = None
    seconds: float | None = None
    evaluations: int | None = None
    draw_seconds: float | None = None
    train_loss: float | None = None

    @property
    def is_baseline(self) -> bool:
        return self.arm == self.baseline

    @property
    def mean(self) -> float | None:
        return mean(self.values.values())

    @property
    def spread(self) -> float | None:
        return deviation(self.values.values())

    @property
    def difference(self) -> float | None:
        return None if self.is_baseline else mean(self.differences.values())

    @property
    def difference_spread(self) -> float | None:
        return None if self.is_baseline else deviation(self.differences.values())

    @property
    def clip_error(self) -> float | None:
        """The standard error of the difference over the panel's clips."""
        spread = deviation(self.clip_differences)
        return None if spread is None or self.is_baseline else spread / math.sqrt(len(self.clip_differences))

    def clips_better(self, better: str) -> int:
        """On how many clips this arm beats its baseline."""
        sign = 1 if better == "higher" else -1
        return sum(sign * d > 0 for d in self.clip_differences)


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    values = list(values)
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation with n - 1, None below two values."""
    values = list(values)
    return statistics.stdev(values) if len(values) > 1 else None


# ---- reading ----


def read_results(folder: Folder, cells: Sequence[Cell]) -> list[Result]:
    """What every cell's folders hold."""
    results = [_read(folder, cell) for cell in cells]
    by_cell = {(r.cell.arm, r.cell.seed): r for r in results}
    for result in results:
        base = by_cell.get((folder.grid.baseline_of(result.cell.arm), result.cell.seed))
        if base and base.finished and result.finished and folder.grid.samples:
            _compare_samples(result, base, folder.grid.samples)
    return results


def _read(folder: Folder, cell: Cell) -> Result:
    run, draw = folder.run(cell), folder.draw(cell)
    state, remembered, environment = folder.state(cell), folder.ledger().get(cell.run, {}), read_json(run / "env.json")
    journal = run / "metrics.jsonl"
    return Result(
        cell, state,
        events=read_journal(journal) if journal.is_file() else [],
        clips=dict(_clips(file) for file in sorted((run / "eval").glob("*.json")) if _clips(file)),
        drawn=folder.samples(cell), seconds=remembered.get("seconds", 0.0), threads=environment.get("threads", 0),
        device=environment.get("device_name", "") or environment.get("device", ""),
        revision=environment.get("revision", ""), last_lines=tuple(remembered.get("last_lines", ())), videos=draw,
    )  # fmt: skip


def _clips(file: Path) -> tuple[str, list[float]] | None:
    """(tag, the mean over each clip's values) of an eval/*.json that holds values per clip."""
    record = read_json(file)
    if "clips" not in record:
        return None
    return record["tag"], [statistics.fmean(c) if isinstance(c, list) else c for c in record["clips"]]


def _compare_samples(result: Result, base: Result, count: int) -> None:
    """How far the samples are from the baseline's, per sample and over all: rms of pixels in [0, 1]."""
    distances = []
    for row in range(count):
        ours, theirs = (r.video(row).astype(np.float64) / 255 for r in (result, base))
        if ours.shape != theirs.shape:
            return
        distances.append(float(np.sqrt(np.mean((ours - theirs) ** 2))))
    result.extra[DIFFERENCE] = statistics.fmean(distances)
    result.clips = {**result.clips, DIFFERENCE: distances}


# ---- the table ----


def rows_of(grid: GridFile, results: Sequence[Result], costs: Mapping[Arm, Cost]) -> list[Row]:
    """A row per arm, in the order of the grid."""
    by_arm: dict[Arm, dict[int, Result]] = {}
    for result in results:
        by_arm.setdefault(result.cell.arm, {})[result.cell.seed] = result
    return [_row(grid, arm, by_arm, costs.get(arm)) for arm in by_arm]


def _row(grid: GridFile, arm: Arm, by_arm: Mapping[Arm, Mapping[int, Result]], cost: Cost | None) -> Row:
    baseline = grid.baseline_of(arm)
    ours, theirs = by_arm[arm], by_arm.get(baseline, {})
    values = {s: v for s, r in ours.items() if (v := r.value(grid.metric)) is not None}
    base = {s: v for s, r in theirs.items() if (v := r.value(grid.metric)) is not None}
    shared = [s for s in values if s in base]
    finished = [r for r in ours.values() if r.finished]
    return Row(
        arm, baseline, values, {s: values[s] - base[s] for s in shared},
        _clip_differences(grid.metric, [(ours[s], theirs[s]) for s in shared]), len(ours), cost,
        seconds=mean([r.seconds for r in finished]),
        evaluations=next((r.drawn["evaluations"] for r in finished if r.drawn), None),
        draw_seconds=mean([r.drawn["seconds"] / len(r.drawn["rows"]) for r in finished if r.drawn]),
        train_loss=mean([v for r in finished if (v := r.value("train/loss")) is not None]),
    )  # fmt: skip


def _clip_differences(tag: str, pairs: Sequence[tuple[Result, Result]]) -> list[float]:
    """Per clip the mean over seeds of ours minus the baseline's; empty where a panel is missing or another."""
    columns = [(a.clips[tag], b.clips[tag]) for a, b in pairs if tag in a.clips and tag in b.clips]
    lengths = {len(x) for pair in columns for x in pair}
    if len(columns) < len(pairs) or len(lengths) != 1:
        return []
    return [statistics.fmean(a[i] - b[i] for a, b in columns) for i in range(lengths.pop())]


def tags_of(results: Sequence[Result]) -> list[str]:
    """Every tag that any cell has recorded."""
    return sorted({tag for r in results for event in r.events for tag in event if tag != "step"} | {DIFFERENCE})
