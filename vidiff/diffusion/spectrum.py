"""What a loss is made of, over noise levels: Kingma & Gao 2023 (2303.00848), sec. 3 and app. D.

Every weighted loss is one integral over the log-SNR l,

    loss = integral W(l) E|x0 - x0_hat|^2 dl,    W(l) = w(t) p(l),

with p the density of l that training draws and w the weight of an error of x0 at its time: only W tells two
configurations apart, whatever path, prediction, weighting and density it is the product of.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Space, error_ratio
from vidiff.types import Grid

DRAWS = 400_000
"""Equally likely times that a density is counted with."""


class Spectrum(NamedTuple):
    """Over bins of log-SNR (K,): the density, and the weights of errors of x0, noise and v, per unit of it."""

    logsnr: Tensor
    density: Tensor
    x0: Tensor
    noise: Tensor
    v: Tensor


@torch.no_grad()
def spectrum(objective: Objective, grid: Grid, low: float = -15.0, high: float = 15.0, bins: int = 120) -> Spectrum:
    """The effective weighting of an objective for latents of this grid; levels beyond [low, high] are left out.

    v is that of unit data and noise (SNR + 1 times the error of x0, on every path). Of an `objective.power` other
    than 2 the weights are those of |error|^power.
    """
    u = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    path, prediction, half = objective.path, objective.prediction, objective.power / 2
    t = objective.times.on(grid).quantile(u, path, objective.interval)
    logsnr = path.logsnr(t)
    inside = (logsnr > low) & (logsnr < high)
    t, logsnr = t[inside], logsnr[inside]
    own = objective.weighting(path, prediction, t) * error_ratio(objective.weighting.space, path, prediction, t) ** (
        half - 1
    )
    of_x0 = own / error_ratio("x0", path, prediction, t) ** half
    width = (high - low) / bins
    place = ((logsnr - low) / width).long().clamp(0, bins - 1)
    per_unit = [
        torch.zeros(bins, dtype=torch.float64).index_add_(0, place, each.double()) / (DRAWS * width)
        for each in (
            torch.ones_like(logsnr),
            of_x0,
            of_x0 * (-half * logsnr).exp(),
            of_x0 * torch.sigmoid(-logsnr) ** half,
        )
    ]
    return Spectrum(low + width * (torch.arange(bins, dtype=torch.float64) + 0.5), *per_unit)


def gain(space: Space, path: Path, prediction: Prediction, logsnr: Tensor) -> Tensor:
    """|error in space| per |error of the network| at fixed x_t and log-SNR; NaN where the path does not reach."""
    t = path.time(logsnr)
    reached = (path.logsnr(t) - logsnr).abs() < 1e-3
    return torch.where(reached, error_ratio(space, path, prediction, t).sqrt(), torch.nan)
