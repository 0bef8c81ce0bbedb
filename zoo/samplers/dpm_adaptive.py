"""DPM-Solver-12 and -23 with steps of their own: Lu et al. 2022 (2206.00927), app. C; k-diffusion's dpm_adaptive.

The step is proposed by a PID controller (Söderlind 2003) on the inverse of the error of the order below.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Spacing
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction, Positive, Range
from zoo.samplers.dpm_fast import DpmFast, NoiseFn, dpm_step

CLOSE = 1e-5
"""A lambda this near to the end is the end."""


@SAMPLERS.register("dpm_adaptive", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class DpmAdaptive(DpmFast):
    """Steps in lambda = log(alpha/sigma), each as long as its estimated error allows; of the grid only the ends matter.

    Errors are those of x / alpha, against max(atol, rtol |x / alpha|). Each sample chooses its own steps; k-diffusion
    and the paper choose for the batch, which `together` does, too: samples then depend on their neighbours. The last
    step, to sigma = 0, is `euler`'s. Evaluations are known afterwards, and are what the slowest sample needs.
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        eta: Fraction = 0.0,
        s_noise: Positive = 1.0,
        order: Annotated[int, Range(min=2, max=3)] = 3,
        rtol: Positive = 0.05,
        atol: Positive = 0.0078,
        first: Positive = 0.05,
        pid: tuple[float, float, float] = (0.0, 1.0, 0.0),
        safety: Annotated[float, Range(above=0.0, max=1.0)] = 0.81,
        together: bool = False,
        limit: Count = 10_000,
    ):
        super().__init__(steps, spacing, path, eta, s_noise)
        self.order, self.rtol, self.atol, self.first, self.safety = order, rtol, atol, first, safety
        self.together, self.limit = together, limit
        p, i, d = (weight / (1.5 if eta else order) for weight in pid)
        self.powers = (p + i + d, -(p + 2 * d), d)

    def cross(self, noise_of: NoiseFn, y: Tensor, lam: Tensor, end: Tensor, random: Random, budget: int) -> Tensor:
        h = torch.full_like(lam, self.first) * torch.sign(end - lam)
        before, past, used = y, None, 0
        while (going := (end - lam) * torch.sign(h) > CLOSE).any():
            if (used := used + self.order) > self.limit:
                raise ValueError(
                    f"dpm_adaptive needs more than {self.limit} evaluations for rtol {self.rtol:g}, atol "
                    f"{self.atol:g}: use larger tolerances, a larger limit, or a method of fixed steps (dpm_fast)."
                )
            there = torch.where(going, torch.where((end - lam).abs() < h.abs(), end, lam + h), lam)
            below, fresh = self.below(lam, there, end)
            low, high = dpm_step(noise_of, y, lam, below, self.order)
            inverse = 1 / (self.error(low, high, before) + 1e-8)
            last, earlier = past or (inverse, inverse)
            growth = inverse ** self.powers[0] * last ** self.powers[1] * earlier ** self.powers[2]
            factor = 1 + torch.atan(growth - 1)
            taken = factor >= self.safety
            past = torch.where(taken, inverse, last), torch.where(taken, last, earlier)
            h = torch.where(going, h * factor, h)
            taken = taken & going
            if self.eta and (taken.any() or not self.together):  # alone: a draw for every try, whatever others do
                noise = random.normal(y.shape, y.dtype).to(y.device)
                high = high + expand(self.s_noise * fresh, y) * noise
            mask = expand(taken, y).bool()
            y, before = torch.where(mask, high, y), torch.where(mask, low, before)
            lam = torch.where(taken, there, lam)
        return y

    def error(self, low: Tensor, high: Tensor, before: Tensor) -> Tensor:
        """The root mean square of what two orders differ by, in tolerances (B,)."""
        allowed = (self.rtol * torch.maximum(low.abs(), before.abs())).clamp(min=self.atol)
        square = ((low - high) / allowed).flatten(1).pow(2).mean(1)
        return (square.mean().expand(len(square)) if self.together else square).sqrt()

    @property
    def evaluations(self) -> None:
        return None
