"""DPM-Solver++ (SDE): k-diffusion's sample_dpmpp_sde with r = 1/2, after Lu et al. 2022 (2211.01095)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, halfway, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction, Positive
from zoo.samplers.ancestral import posterior_std


@SAMPLERS.register("dpmpp_sde", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class DpmppSde(Sampler):
    """Steps with the x0 believed halfway in lambda, where fresh noise has led as well: two draws per step.

    The step to sigma = 0 is the `euler` one: 2 steps - 1 evaluations. k-diffusion draws from a Brownian tree, here
    every draw is independent.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        eta: Fraction = 1.0,
        s_noise: Positive = 1.0,
    ):
        super().__init__(steps, spacing, path)
        self.eta, self.s_noise = eta, s_noise

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        clean = path.sigma(times[1:]) == 0
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if clean[i]:
                x = place(path, now, s)
                continue
            middle = halfway(path, t, s)
            ahead = self.step(x, now.x0, t, middle, path, random)
            x = self.step(x, estimate(ahead, middle).x0, t, s, path, random)
        return x

    def step(self, x: Tensor, x0: Tensor, t: Tensor, s: Tensor, path: Path, random: Random) -> Tensor:
        """x (B,...) at t -> at s, believing x0: partly kept noise, partly fresh."""
        z = self.eta * posterior_std(path, t, s)
        kept = torch.sqrt(path.sigma(s) ** 2 - z**2) / path.sigma(t)
        fresh = random.normal(x.shape, x.dtype).to(x.device)
        mean = expand(kept, x) * x + expand(path.alpha(s) - kept * path.alpha(t), x) * x0
        return mean + expand(self.s_noise * z, x) * fresh

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
