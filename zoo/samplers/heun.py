"""Heun's second-order method: Karras et al. 2022 (2206.00364), alg. 1."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place, velocity
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("heun", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Heun(Sampler):
    """The trapezoid rule on dx/dt = alpha' x0 + sigma' noise, with an Euler step to look ahead.

    The last step, to sigma = 0, is the `euler` one (the slope there is infinite or never trained), so a
    run costs 2 steps - 1 evaluations; so is a step that begins where the slope is infinite.
    """

    def __init__(self, steps: Count = 50, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        straight = (path.sigma(times[1:]) == 0) | ~torch.isfinite(path.alpha_dot(times[:-1]))
        for i, t, s in steps_of(times, x):
            x = trapezoid(estimate, x, t, s, path, bool(straight[i]))
        return x

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1


def trapezoid(estimate: EstimateFn, x: Tensor, t: Tensor, s: Tensor, path: Path, straight: bool) -> Tensor:
    """x (B,...) at t (B,) to s (B,) by the mean of the slopes at both, or, where one is infinite, by `euler`."""
    now = estimate(x, t)
    if straight:
        return place(path, now, s)
    slope, step = velocity(path, now, t), expand(s - t, x)
    ahead = estimate(x + step * slope, s)
    return x + step * (slope + velocity(path, ahead, s)) / 2
