"""Predictor and corrector: Song et al. 2021 (2011.13456), app. G, with ancestral steps and Langevin dynamics."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Positive
from zoo.samplers.ancestral import posterior_std


@SAMPLERS.register("predictor_corrector", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class PredictorCorrector(Sampler):
    """`corrections` steps x + e score + sqrt(2 e) fresh at t, then the `ancestral` step to s.

    e = 2 (snr sigma_t)^2: theirs is 2 (snr |z| / |score|)^2 with norms over the batch, which is this where the noise
    believed has unit deviation; here a sample does not depend on its batch. (1 + corrections) steps evaluations.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 100,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        corrections: Count = 1,
        snr: Positive = 0.16,
    ):
        super().__init__(steps, spacing, path)
        self.corrections, self.snr = corrections, snr

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        for _, t, s in steps_of(times, x):
            sigma = expand(path.sigma(t), x)
            for _ in range(self.corrections if (t > s).all() else 0):
                fresh = random.normal(x.shape, x.dtype).to(x.device)
                x = x - 2 * self.snr**2 * sigma * estimate(x, t).noise + 2 * self.snr * sigma * fresh
            x0, noise = estimate(x, t)
            z = posterior_std(path, t, s)
            kept, fresh = torch.sqrt(path.sigma(s) ** 2 - z**2), random.normal(x.shape, x.dtype).to(x.device)
            x = expand(path.alpha(s), x) * x0 + expand(kept, x) * noise + expand(z, x) * fresh
        return x

    @property
    def evaluations(self) -> int:
        return (1 + self.corrections) * self.steps
