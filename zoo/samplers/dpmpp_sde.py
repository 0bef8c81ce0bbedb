"""DPM-Solver++ (SDE): k-diffusion's sample_dpmpp_sde, after Lu et al. 2022 (2211.01095)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, halfway, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction, Positive, Range
from zoo.samplers.ancestral import posterior_std


@SAMPLERS.register("dpmpp_sde", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class DpmppSde(Sampler):
    """Steps with the x0 believed halfway in lambda, where fresh noise has led as well: two draws per step.

    The draws are independent, which leaves its moments at weak order 1. With `brownian` the noise of a step goes on
    from that of its half, as one Brownian motion does (k-diffusion's tree, in the clock of the SDE): weak order 2.
    The step to sigma = 0 is the `euler` one: 2 steps - 1 evaluations. eta 0 is `dpmpp_2s`.
    `r` is where the second evaluation lies: 1/2 is halfway.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        eta: Fraction = 1.0,
        s_noise: Positive = 1.0,
        brownian: bool = False,
        r: Annotated[float, Range(above=0.0, max=1.0)] = 0.5,
    ):
        super().__init__(steps, spacing, path)
        self.eta, self.s_noise, self.brownian, self.r = eta, s_noise, brownian, r

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        clean = path.sigma(times[1:]) == 0
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if clean[i]:
                x = place(path, now, s)
                continue
            half, fresh = (random.normal(x.shape, x.dtype).to(x.device) for _ in range(2))
            if self.brownian:  # what remains of the variance of the first part, where the SDE's clock is e^(2 lambda)
                first = self.remaining(path.logsnr(s) - path.logsnr(t))
                fresh = expand(first.sqrt(), x) * half + expand((1 - first).sqrt(), x) * fresh
            middle = halfway(path, t, s, self.r)
            kept, z = self.shares(path, t, middle)
            ahead = expand(path.alpha(middle), x) * now.x0 + expand(kept, x) * now.noise + expand(z, x) * half
            then = 1 / (2 * self.r)
            x0 = (1 - then) * now.x0 + then * estimate(ahead, middle).x0
            kept, z = self.shares(path, t, s)
            kept = kept / path.sigma(t)
            x = expand(kept, x) * x + expand(path.alpha(s) - kept * path.alpha(t), x) * x0 + expand(z, x) * fresh
        return x

    def shares(self, path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The deviations at s of the noise that x_t has and of the fresh noise, (B,) each."""
        z = self.eta * posterior_std(path, t, s)
        return torch.sqrt(path.sigma(s) ** 2 - z**2), self.s_noise * z

    def remaining(self, twice: Tensor) -> Tensor:
        """Of the fresh variance of a step of lambda `twice` / 2, the share that is of its first part, r of the way."""
        finite = torch.where(twice.isfinite(), twice, torch.ones_like(twice))
        share = torch.exp(-(1 - self.r) * finite) * torch.expm1(-self.r * finite) / torch.expm1(-finite)
        return torch.where(twice.isfinite(), share, torch.zeros_like(twice))

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
