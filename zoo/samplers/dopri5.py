"""Adaptive Runge-Kutta for the probability-flow ODE: Dormand & Prince 1980; Song et al. 2021 (2011.13456), app. D.4."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.adaptive import dopri5
from vidiff.diffusion.estimate import EstimateFn, place, velocity
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, finite_slope
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Positive

CLEAN = 1e-5
"""Song et al. stop here: at sigma = 0 itself not every prediction tells the noise."""


@SAMPLERS.register("dopri5", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dopri5(Sampler):
    """Order 5 with an error estimate: each sample chooses its own steps, so that each stays within rtol and atol.

    The grid matters at its ends only; where the data are clean or the slope is infinite, 1e-5 of the way is an `euler`
    step. The number of evaluations is known afterwards, and is what the slowest sample needs.
    """

    lands = False

    def __init__(
        self,
        steps: Count = 50,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        rtol: Positive = 1e-5,
        atol: Positive = 1e-5,
        limit: Count = 10_000,
    ):
        super().__init__(steps, spacing, path)
        self.rtol, self.atol, self.limit = rtol, atol, limit

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        def slope(x: Tensor, t: Tensor) -> Tensor:
            return velocity(path, estimate(x, t), t)

        ends = [self.inside(path, times[i], times[-1 - i]) for i in (0, -1)]
        if ends[0] != times[0]:
            x = place(path, estimate(x, times[0].expand(len(x))), ends[0].expand(len(x)))
        if times[0] != times[-1]:
            x = dopri5(slope, x, ends[0], ends[1], self.rtol, self.atol, self.limit)
        if ends[1] != times[-1]:
            x = place(path, estimate(x, ends[1].expand(len(x))), times[-1].expand(len(x)))
        return x

    def inside(self, path: Path, end: Tensor, other: Tensor) -> Tensor:
        """This end of the way, or a time just before it where data are clean or the slope is infinite."""
        regular = finite_slope(path, end) & (path.sigma(end) > 0)
        return torch.where(regular, end, torch.lerp(end, other, CLEAN))

    @property
    def evaluations(self) -> None:
        return None
