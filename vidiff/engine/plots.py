"""Pictures of objectives: what each noise level counts, and what a network's error becomes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vidiff.diffusion.objective import Objective
from vidiff.diffusion.spectrum import gain, spectrum
from vidiff.errors import Refused
from vidiff.registry import PREDICTIONS
from vidiff.types import Grid

WORDS = {
    "density": "density of training",
    "v": "density x weight of an error of v",
    "x0": "density x weight of an error of x0",
    "noise": "density x weight of an error of eps",
}


def draw_weighting(file: Path, objectives: Mapping[str, tuple[Objective, Grid]]) -> None:
    """Weight times density per unit of log-SNR in three spaces, and the density: a curve for each objective.

    A constant factor is a learning rate: every objective is scaled to an integral of 1 in the space of v.
    """
    curves = {name: spectrum(objective, grid) for name, (objective, grid) in objectives.items()}
    figure = _figure(14, 3.8)
    panels = figure.subplots(1, 4, sharex=True)
    for axes, (field, word) in zip(panels, WORDS.items(), strict=True):
        bulk = 0.0  # one bin may tower above the rest: the last step of a bound, levels that fall on an end
        for name, curve in curves.items():
            step = (curve.logsnr[1] - curve.logsnr[0]).item()
            shown = getattr(curve, field) / (1.0 if field == "density" else curve.v.nansum() * step)
            bulk = max(bulk, shown.nan_to_num().quantile(0.97).item())
            axes.plot(curve.logsnr, shown, label=name if len(name) <= 48 else f"{name[:47]}…")
        axes.set(title=word, xlabel="log-SNR (clean data on the right)")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        logarithmic = field in ("x0", "noise")
        axes.set(**(dict(yscale="log", ylim=(1e-4, 1e4)) if logarithmic else dict(ylim=(0, 1.4 * bulk))))
    panels[0].set_ylabel("per unit of log-SNR")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    _save(figure, file)


def draw_gains(file: Path, name: str, objective: Objective) -> None:
    """How large an error of x0, noise and velocity an error of 1 of the network is, for every registered prediction."""
    logsnr = torch.linspace(-14, 14, 281, dtype=torch.float64)
    own = type(objective.prediction)
    figure = _figure(12, 3.8)
    for axes, space in zip(figure.subplots(1, 3, sharex=True), ("x0", "noise", "velocity"), strict=True):
        for component in PREDICTIONS:
            chosen = component.target is own
            prediction = objective.prediction if chosen else component.build(component.tiny)
            label = f"{component.name} (this one)" if chosen else component.name
            style: dict[str, Any] = dict(lw=2.8, zorder=3) if chosen else dict(lw=1.2, ls="--")
            axes.semilogy(logsnr, gain(space, objective.path, prediction, logsnr), label=label, **style)
        axes.set(title=f"error of {space} per error of the network", xlabel="log-SNR (clean data on the right)")
        axes.title.set_fontsize(10)
        axes.set_ylim(1e-4, 1e4)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle(name, fontsize=10)
    _save(figure, file)


def _figure(width: float, height: float) -> Any:
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Refused('--plot needs matplotlib, which is not installed. pip install -e ".[plots]"') from None
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
