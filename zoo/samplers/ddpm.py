"""Ancestral sampling with a choice of the posterior's variance: Ho et al. 2020 (2006.11239), sec. 3.2;
learned: Nichol & Dhariwal 2021 (2102.09672), eq. 15."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count
from zoo.samplers.ancestral import posterior_std


@SAMPLERS.register("ddpm", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Ddpm(Sampler):
    """The mean of p(x_s | x_t, x0) plus noise of variance beta~ (small), beta (large), or between them (learned).

    beta = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2, beta~ = beta sigma_s^2 / sigma_t^2. `learned` needs a model that
    answers variances (objectives `iddpm`, `vlb`): log variance = f log beta + (1 - f) log beta~.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 250,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        variance: Literal["small", "large", "learned"] = "small",
    ):
        super().__init__(steps, spacing, path)
        self.variance, self.reads_variances = variance, variance == "learned"

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        for _, t, s in steps_of(times, x):
            now = estimate(x, t)
            small = posterior_std(path, t, s)
            mean_noise = torch.sqrt(path.sigma(s) ** 2 - small**2)
            mean = expand(path.alpha(s), x) * now.x0 + expand(mean_noise, x) * now.noise
            fresh = random.normal(x.shape, x.dtype).to(x.device)
            x = mean + torch.where(expand(path.sigma(s), x) > 0, self.std(now, path, t, s, small), 0) * fresh
        return x

    def std(self, now: Estimate, path: Path, t: Tensor, s: Tensor, small: Tensor) -> Tensor:
        """The deviation of the noise, (B,...) to multiply it."""
        large = torch.sqrt((path.sigma(t) ** 2 - (path.alpha(t) / path.alpha(s) * path.sigma(s)) ** 2).clamp(min=0))
        share = now.share
        if self.variance == "learned" and share is None:
            raise ValueError(
                "variance: learned needs a model that answers variances: objective iddpm or vlb. Use small."
            )
        ndim = now.x0.ndim
        small, large = (v.reshape(-1, *[1] * (ndim - 1)).to(now.x0.dtype) for v in (small, large))
        if self.variance == "learned":
            tiny = torch.finfo(small.dtype).tiny
            return torch.exp(share * large.clamp(min=tiny).log() + (1 - share) * small.clamp(min=tiny).log())
        return small if self.variance == "small" else large
