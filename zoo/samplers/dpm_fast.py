"""DPM-Solver-fast: Lu et al. 2022 (2206.00927), alg. 1, 2 and app. D; k-diffusion's sample_dpm_fast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, refuse_ascending
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction, Positive

NoiseFn = Callable[[Tensor, Tensor], Tensor]
"""(x / alpha (B,...), lambda (B,)) -> the noise believed (B,...)."""


@SAMPLERS.register("dpm_fast", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class DpmFast(Sampler):
    """Blocks of equal length in lambda = log(alpha/sigma), of order 3 as far as the evaluations go, the last of less.

    `steps` counts evaluations, of which the last is the step to sigma = 0 (k-diffusion stops before it: its n is
    steps - 1). Of the grid only the ends matter: its first time, and its last one above clean. `eta` as of `ancestral`.
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        eta: Fraction = 0.0,
        s_noise: Positive = 1.0,
    ):
        super().__init__(steps, spacing, path)
        self.eta, self.s_noise, self.reverses = eta, s_noise, not eta

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        if self.eta:
            refuse_ascending(times)
        times = torch.unique_consecutive(times)
        lam = path.logsnr(times) / 2
        first, last = int(lam[0].isinf()), len(times) - 1 - int(lam[-1].isinf())

        def noise_of(y: Tensor, lam: Tensor) -> Tensor:
            t = path.time(2 * lam)
            return estimate(expand(path.alpha(t), y) * y, t).noise

        def moved(x: Tensor, i: int) -> Tensor:
            t, s = times[i : i + 2, None].expand(2, len(x))
            return place(path, estimate(x, t), s)

        if first and len(times) > 1:
            x = moved(x, 0)
        if first < last:
            y = x / expand(path.alpha(times[first]), x)
            y = self.cross(noise_of, y, *lam[[first, last], None].expand(2, len(x)), random, last - first)
            x = expand(path.alpha(times[last]), y) * y
        return moved(x, last) if first <= last < len(times) - 1 else x

    def cross(self, noise_of: NoiseFn, y: Tensor, lam: Tensor, end: Tensor, random: Random, budget: int) -> Tensor:
        """y = x / alpha from lambda `lam` (B,) to `end` (B,), in so many evaluations."""
        blocks = budget // 3 + 1
        orders = [3] * (blocks - 2) + [2, 1] if budget % 3 == 0 else [3] * (blocks - 1) + [budget % 3]
        for k, order in enumerate(orders):
            here, there = (torch.lerp(lam, end, (k + j) / blocks) for j in (0, 1))
            below, fresh = self.below(here, there, end)
            y = dpm_step(noise_of, y, here, below, order)[1]
            if self.eta:
                y = y + expand(self.s_noise * fresh, y) * random.normal(y.shape, y.dtype).to(y.device)
        return y

    def below(self, here: Tensor, there: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The lambda a step goes to, and the deviation of the fresh noise that leads up to `there`."""
        if not self.eta:
            return there, torch.zeros_like(there)
        kept = 1 - self.eta**2 * -torch.expm1(2 * (here - there))  # of the variance at `there`
        below = torch.minimum(end, there - kept.log() / 2)
        return below, torch.sqrt((torch.exp(-2 * there) - torch.exp(-2 * below)).clamp(min=0))


def dpm_step(noise_of: NoiseFn, y: Tensor, lam: Tensor, end: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """y = x / alpha at lambda `lam` -> at `end` (B,), of the order below (of order 1: the same) and of `order` <= 3.

    With h = end - lam, e the noise at the start, e1 and e2 those at its half (order 2) or its thirds:

        y_s = y - e^-end ((e^h - 1) e + ...),   order 2 with the node r: (e^h - 1) / (2 r) (e1 - e),
        order 3: 3/2 ((e^h - 1)/h - 1) (e2 - e)
    """
    h, e = end - lam, noise_of(y, lam)

    def ahead(r: float) -> Tensor:
        return y - expand(torch.exp(-lam - r * h) * torch.expm1(r * h), y) * e

    one = ahead(1)
    if order == 1:
        return one, one
    r = 1 / order
    slope = noise_of(ahead(r), lam + r * h) - e
    two = one - expand(torch.exp(-end) * torch.expm1(h) / (2 * r), y) * slope
    if order == 2:
        return one, two
    curved = ahead(2 / 3) - expand(2 * torch.exp(-lam - 2 / 3 * h) * phi(2 / 3 * h), y) * slope
    bend = noise_of(curved, lam + 2 / 3 * h) - e
    return two, one - expand(1.5 * torch.exp(-end) * phi(h), y) * bend


def phi(h: Tensor) -> Tensor:
    """(e^h - 1) / h - 1, 0 at h = 0."""
    return torch.where(h == 0, 0, torch.expm1(h) / h - 1)
