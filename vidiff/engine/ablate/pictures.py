"""Pictures of a report: the metric, curves, errors by noise level, cost, and samples side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidiff.engine.ablate.cells import SAMPLING
from vidiff.engine.ablate.grid import Arm, GridFile
from vidiff.engine.ablate.results import DIFFERENCE, Result, Row, mean
from vidiff.engine.profile import human
from vidiff.engine.run import within
from vidiff.video import write_gif, write_png_strip

LEVEL = re.compile(r"(.+)/logsnr_(-?[\d.]+)$")
"""Tags of a metric at a noise level."""

MOST_ROWS, MOST_COLUMNS = 24, 8
GAP, WHITE = 4, 255


# ---- plots ----


def plot_metric(file: Path, grid: GridFile, rows: Sequence[Row]) -> Path:
    """The metric of every seed and its mean; beside it the paired differences to the baseline, if it is none itself."""
    shown = [row for row in rows if row.values and not (row.is_baseline and grid.metric == DIFFERENCE)]
    sign = "left" if grid.better == "lower" else "right"
    panels = {grid.metric: lambda row: row.values}
    if grid.metric != DIFFERENCE:
        panels[f"difference to the baseline ({sign} is better)"] = lambda r: {} if r.is_baseline else r.differences

    def draw(figure, axes) -> None:
        for axis, (title, of) in zip(axes, panels.items(), strict=True):
            for y, row in enumerate(shown):
                values, colour = list(of(row).values()), _colour(rows, row)
                axis.plot(values, [y] * len(values), "o", color=colour, alpha=0.45, markersize=6)
                if values:
                    axis.plot([mean(values)], [y], "|", color=colour, markersize=22, markeredgewidth=3)
            axis.set(title=title, yticks=range(len(shown)), yticklabels=[], ylim=(len(shown) - 0.5, -0.5))
            axis.locator_params(axis="x", nbins=6)
            axis.grid(alpha=0.3, axis="x")
        axes[0].set_yticklabels([row.arm.label for row in shown])
        if len(axes) > 1:
            axes[1].axvline(0, color="black", linewidth=1)
        elif shown:
            axes[0].set_xscale("log")

    return _figure(file, draw, columns=len(panels), size=(11, 1.3 + 0.42 * len(shown)))


def plot_curves(
    file: Path, grid: GridFile, rows: Sequence[Row], results: Sequence[Result], own_units: bool
) -> Path | None:
    """The metric and the training loss over steps: thin lines are seeds, thick ones their mean.

    Arms that share their training have one curve; a metric that is only known at the end has none. None without any.
    """
    titles = {grid.metric: grid.metric, "train/loss": "training loss" + " (units differ by objective)" * own_units}
    panels = {tag: title for tag, title in titles.items() if any(r.curve(tag)[0] for r in results)}
    trained: dict[str, Row] = {}
    for row in rows:
        trained.setdefault(training_of(row.arm), row)
    if not panels:
        return None

    def draw(figure, axes) -> None:
        for axis, (tag, title) in zip(axes, panels.items(), strict=True):
            for label, row in trained.items():
                colour = _colour(rows, row)
                curves = [r.curve(tag) for r in results if r.cell.arm == row.arm]
                for steps, values in curves:
                    axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
                steps, values = mean_curve(curves)
                alone = "o" if len(steps) == 1 else ""  # a point is no line
                axis.plot(steps, values, marker=alone, color=colour, linewidth=2, label=label)
            axis.set(title=title, xlabel="step", yscale="log")
            axis.locator_params(axis="x", nbins=7, integer=True)
            axis.grid(alpha=0.3, which="both")
        _legend(figure, axes[0])

    return _figure(file, draw, columns=len(panels), size=(11, 4.6))


def training_of(arm: Arm) -> str:
    """What an arm is called without what changes its sampling only."""
    words = [p.label for p in arm.points if not all(within(key, SAMPLING) for key in p.keys)]
    return ", ".join(words) or "all arms"


def mean_curve(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[float]]:
    """The mean of several (steps, values) at the steps that all of them have."""
    tables = [dict(zip(steps, values, strict=True)) for steps, values in curves]
    shared = sorted(set.intersection(*(set(t) for t in tables))) if tables else []
    return shared, [mean([t[s] for t in tables]) for s in shared]


def plot_levels(file: Path, rows: Sequence[Row], results: Sequence[Result]) -> Path | None:
    """The error against log-SNR, and as a share of the baseline's; None when no cell has measured it."""
    by_arm = {row.arm: levels_of([r for r in results if r.cell.arm == row.arm]) for row in rows}
    if not any(by_arm.values()):
        return None

    def draw(figure, axes) -> None:
        for row in rows:
            ours, base = by_arm[row.arm], by_arm.get(row.baseline, {})
            colour = _colour(rows, row)
            axes[0].plot(list(ours), list(ours.values()), "o-", color=colour, label=row.arm.label)
            shared = [level for level in ours if level in base]
            axes[1].plot(shared, [ours[v] / base[v] for v in shared], "o-", color=colour)
        axes[0].set(title="error of the believed x0", xlabel="log-SNR (noisy left, clean right)", yscale="log")
        axes[1].set(title="the same, divided by the baseline's", xlabel="log-SNR", yscale="log")
        for axis in axes:
            axis.grid(alpha=0.3, which="both")
        _legend(figure, axes[0])

    return _figure(file, draw, columns=2, size=(11, 4.6))


def levels_of(results: Sequence[Result]) -> dict[float, float]:
    """The last error at each log-SNR, the mean over finished seeds."""
    tags = {tag for r in results for event in r.events for tag in event if LEVEL.match(tag)}
    found = {float(LEVEL.match(tag)[2]): [v for r in results if (v := r.value(tag)) is not None] for tag in tags}
    return {level: mean(values) for level, values in sorted(found.items()) if values}


def plot_cost(file: Path, grid: GridFile, rows: Sequence[Row]) -> Path | None:
    """The metric against what differs between the arms of their costs; None when nothing does."""
    quantities = {
        "parameters": lambda row: row.cost and row.cost.parameters,
        "training FLOPs per clip": lambda row: row.cost and row.cost.training_flops,
    }
    if grid.metric.startswith("samples/"):
        quantities["network evaluations per sample"] = lambda row: row.evaluations
    shown = [row for row in rows if row.mean is not None and not (row.is_baseline and grid.metric == DIFFERENCE)]
    varying = {name: of for name, of in quantities.items() if _varies([of(row) for row in shown])}
    if not varying:
        return None

    def draw(figure, axes) -> None:
        for axis, (name, of) in zip(axes, varying.items(), strict=True):
            for row in shown:
                if of(row):
                    axis.plot([of(row)], [row.mean], "o", color=_colour(rows, row), label=row.arm.label, markersize=7)
            axis.set(xlabel=name, ylabel=grid.metric, xscale="log")
            axis.set_yscale("log" if grid.metric == DIFFERENCE else "linear")
            axis.grid(alpha=0.3, which="both")
        _legend(figure, axes[0])

    return _figure(file, draw, columns=len(varying), size=(11, 4.4))


def _varies(values: Sequence[float | None]) -> bool:
    known = [v for v in values if v]
    return len(known) > 1 and max(known) > 1.1 * min(known)


def _colour(rows: Sequence[Row], row: Row) -> tuple[float, float, float]:
    from matplotlib import colormaps

    index = [r.arm for r in rows].index(row.arm)
    return colormaps["tab10"](index)[:3] if len(rows) <= 10 else colormaps["turbo"](index / (len(rows) - 1))[:3]


def _legend(figure, axis) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), fontsize=9, frameon=False
    )


def _figure(file: Path, draw: Callable, columns: int, size: tuple[float, float]) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, columns, figsize=size, layout="constrained", squeeze=False)
    draw(figure, list(axes[0]))
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        for side, scale in ((axis.xaxis, axis.get_xscale()), (axis.yaxis, axis.get_yscale())):
            if scale == "log":
                low, high = side.get_view_interval()
                logarithmic = ticker.LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7))
                side.set_major_locator(logarithmic if high > 4 * low else ticker.MaxNLocator(5))
                side.set_major_formatter(lambda value, _: human(value) if value >= 1e4 else f"{value:.4g}")
                side.set_minor_formatter(ticker.NullFormatter())
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}")
    figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)
    partial.replace(file)
    return file


# ---- samples ----


def side_by_side(folder: Path, real: Tensor, videos: Mapping[str, Tensor], fps: float = 8.0) -> tuple[Path, Path]:
    """samples.gif: a row per arm, a column per sample seed, held-out clips on top. samples.png: frames of two seeds.

    `real` and every value of `videos` are uint8 (N,C,T,H,W).
    """
    rows = {"held-out clips": real, **videos}
    labels = _label_column(list(rows), _height(real))
    moving = _stack([_row(list(v[:MOST_COLUMNS])) for v in rows.values()])
    gif = folder / "samples.gif"
    write_gif(gif, torch.cat([_over_time(labels, moving), moving], dim=-1), fps)
    still = _stack([_row([f for clip in v[:2] for f in _frames(clip)]) for v in rows.values()])
    png = folder / "samples.png"
    write_png_strip(png, torch.cat([_over_time(labels, still), still], dim=-1))
    return gif, png


def _enlarge(clip: Tensor) -> Tensor:
    """(C,T,H,W) at least about 64 pixels high, by a whole factor."""
    factor = max(1, round(64 / clip.shape[-2]))
    return clip.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)


def _height(videos: Tensor) -> int:
    return _enlarge(videos[0]).shape[-2]


def _frames(clip: Tensor, most: int = 8) -> list[Tensor]:
    """Some frames of a clip, evenly spaced, as clips of one frame."""
    chosen = torch.linspace(0, clip.shape[1] - 1, min(most, clip.shape[1])).round().long()
    return [clip[:, i : i + 1] for i in chosen.tolist()]


def _row(clips: Sequence[Tensor]) -> Tensor:
    """Clips beside each other, with white between them."""
    large = [_enlarge(clip) for clip in clips]
    gap = large[0].new_full((*large[0].shape[:-1], GAP), WHITE)
    return torch.cat([part for clip in large for part in (gap, clip)], dim=-1)


def _stack(rows: Sequence[Tensor]) -> Tensor:
    """Rows below each other, filled with white where one is shorter."""
    width = max(row.shape[-1] for row in rows)
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[-1], GAP, 0), value=WHITE) for row in rows]
    return torch.cat(padded, dim=-2)


def _label_column(labels: Sequence[str], height: int) -> Tensor:
    """The labels as a picture (1,H,W) uint8, one to a row of this height."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=13)
    lines = [_wrapped(label, lambda words: font.getlength(words) <= 170) for label in labels]
    width = 12 + round(max(font.getlength(line) for wrapped in lines for line in wrapped))
    picture = Image.new("L", (width, (height + GAP) * len(labels)), WHITE)
    pen = ImageDraw.Draw(picture)
    for i, wrapped in enumerate(lines):
        middle = i * (height + GAP) + GAP + height / 2
        pen.multiline_text((4, middle), "\n".join(wrapped[: max(1, height // 16)]), fill=20, font=font, anchor="lm")
    return torch.from_numpy(np.array(picture))[None]


def _wrapped(label: str, fits: Callable[[str], bool]) -> list[str]:
    lines = [""]
    for word in label.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if fits(longer) or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _over_time(labels: Tensor, video: Tensor) -> Tensor:
    """(1,H,W) -> (C,T,H,W) like the video."""
    return labels[:, None].expand(video.shape[0], video.shape[1], -1, -1)
