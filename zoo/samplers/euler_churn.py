"""Euler steps with churn: k-diffusion's sample_euler, Karras et al. 2022 (2206.00364) alg. 2 without its correction."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Churned, Spacing, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, NonNegative, Positive


@SAMPLERS.register("euler_churn", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class EulerChurn(Churned):
    """`euler` after noise has been added to every level between s_min and s_max: see `Churned`."""

    reverses = False

    def __init__(
        self,
        steps: Count = 25,
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
        for _, t, s in steps_of(times, x):
            x, t = self.stir(x, t, path, random, len(times) - 1)
            x = place(path, estimate(x, t), s)
        return x
