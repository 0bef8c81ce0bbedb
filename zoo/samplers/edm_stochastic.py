"""The stochastic sampler of EDM: Karras et al. 2022 (2206.00364), alg. 2."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Churned, Spacing, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, NonNegative, Positive
from zoo.samplers.heun import trapezoid


@SAMPLERS.register("edm_stochastic", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class EdmStochastic(Churned):
    """`heun` after noise has been added to every level between s_min and s_max: S_churn, S_min, S_max, S_noise there.

    `churn` 0 is `heun`. Theirs may leave the levels of training at the first step, here the path's last level is the
    limit: a `ve` path with a larger sigma_max lifts it.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 50,
        spacing: Spacing | str = "karras",
        path: Path | str | None = None,
        churn: NonNegative = 20.0,
        s_min: NonNegative = 0.0,
        s_max: Positive | None = None,
        s_noise: Positive = 1.0,
    ):
        super().__init__(steps, spacing, path, churn, s_min, s_max, s_noise)

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        times = torch.unique_consecutive(times)
        straight = (path.sigma(times[1:]) == 0) | ~torch.isfinite(path.alpha_dot(times[:-1]))
        for i, t, s in steps_of(times, x):
            x, t = self.stir(x, t, path, random, len(times) - 1)
            x = trapezoid(estimate, x, t, s, path, bool(straight[i]))
        return x

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
