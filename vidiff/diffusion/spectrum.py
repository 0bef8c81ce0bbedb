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

FINE = 20_001
"""How many quantiles a density is read from, equally spaced in logit(u): tails are as fine as the middle."""


class Spectrum(NamedTuple):
    """Over bins of log-SNR (K,): the density, and the weights of errors of x0, noise and v, per unit of it."""

    logsnr: Tensor
    density: Tensor
    x0: Tensor
    noise: Tensor
    v: Tensor


@torch.no_grad()
def spectrum(objective: Objective, grid: Grid, low: float = -15.0, high: float = 15.0, bins: int = 240) -> Spectrum:
    """The effective weighting of an objective for latents of this grid; levels beyond [low, high] are left out.

    v is that of unit data and noise (the error of x0 weighs SNR + 1 times that of v, on every path). Of an
    `objective.power` other than 2 the weights are those of |error|^power. NaN where training never goes.
    """
    half = objective.power / 2
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    density = mass_between(edges, objective, grid) / edges.diff()
    logsnr = (edges[1:] + edges[:-1]) / 2
    t = objective.path.time(logsnr).clamp(*objective.interval)
    of_x0 = torch.where(density > 0, objective.weight_of_x0(t) * density, torch.nan)
    return Spectrum(logsnr, density, of_x0, of_x0 * (-half * logsnr).exp(), of_x0 * torch.sigmoid(-logsnr) ** half)


def mass_between(edges: Tensor, objective: Objective, grid: Grid) -> Tensor:
    """The share (K,) of training whose log-SNR lies between neighbouring edges (K+1,), ascending."""
    z = torch.linspace(20, -20, FINE, dtype=torch.float64)  # u = sigmoid(z) falls, log-SNR rises
    t = objective.times.on(grid).quantile(torch.sigmoid(z), objective.path, objective.interval)
    logsnr = objective.path.logsnr(t)
    i = torch.searchsorted(logsnr, edges).clamp(1, FINE - 1)
    part = ((edges - logsnr[i - 1]) / (logsnr[i] - logsnr[i - 1])).nan_to_num(0.0).clamp(0, 1)
    at = z[i - 1] + part * (z[i] - z[i - 1])
    fall = at[:-1] - at[1:]
    # sigmoid(a) - sigmoid(b), without losing the digits of the tails
    return torch.sinh(fall / 2) / (2 * torch.cosh(at[:-1] / 2) * torch.cosh(at[1:] / 2))


def gain(space: Space, path: Path, prediction: Prediction, logsnr: Tensor) -> Tensor:
    """|error in space| per |error of the network| at fixed x_t and log-SNR; NaN where the path does not reach."""
    t = path.time(logsnr)
    reached = (path.logsnr(t) - logsnr).abs() < 1e-3
    return torch.where(reached, error_ratio(space, path, prediction, t).sqrt(), torch.nan)
