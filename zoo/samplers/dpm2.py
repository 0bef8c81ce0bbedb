"""DPM-2: k-diffusion's sample_dpm_2, alg. 2 of Karras et al. 2022 (2206.00364) with a midpoint in log sigma."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Churned, Spacing, halfway, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, NonNegative, Positive


@SAMPLERS.register("dpm2", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dpm2(Churned):
    """The midpoint in log(sigma/alpha) of d(x/alpha) = noise d(sigma/alpha): order 2, 2 steps - 1 evaluations.

    `midpoint` halves the time and follows dx/dt instead. The step to sigma = 0 is the `euler` one; one from alpha = 0
    moves the estimate of its middle.
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "karras",
        path: Path | str | None = None,
        churn: NonNegative = 0.0,
        s_min: NonNegative = 0.0,
        s_max: Positive | None = None,
        s_noise: Positive = 1.0,
    ):
        super().__init__(steps, spacing, path, churn, s_min, s_max, s_noise)

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times = torch.unique_consecutive(times)
        ends = ~torch.isfinite(path.logsnr(times))
        for i, t, s in steps_of(times, x):
            x, t = self.stir(x, t, path, random, len(times) - 1)
            now = estimate(x, t)
            if path.sigma(times[i + 1]) == 0 or path.sigma(times[i]) == 0:
                x = place(path, now, s)
                continue
            middle = halfway(path, t, s)
            then = estimate(place(path, now, middle), middle)
            if ends[i]:  # no finite log sigma to halve, and no x0 in x: the middle estimate is moved
                x = place(path, then, s)
                continue
            kept = path.alpha(s) / path.alpha(t)
            x = expand(kept, x) * x + expand(path.sigma(s) - kept * path.sigma(t), x) * then.noise
        return x

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
