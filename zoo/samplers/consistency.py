"""Multistep consistency sampling: Song et al. 2023 (2303.01469), alg. 1; also diffusers' stochastic flow sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, toward
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("consistency", tiny=dict(steps=2), parts={"spacing": "spacing", "path": "path"})
class Consistency(Sampler):
    """x_s = alpha_s x0 + sigma_s fresh: believe x0 and noise it anew; one step is the model's own answer.

    Right for models that map every x_t to the end of its trajectory, at once or by a jump to t = 0; a denoiser's x0 is
    a mean, and stays blurred.
    """

    reverses, spreads = False, False
    asks = frozenset({"velocity", "end", "jump"})

    def __init__(self, steps: Count = 2, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)

    def takes(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Every step is a jump to clean data."""
        return times[:-1], torch.zeros_like(times[:-1])

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        for _, t, s in steps_of(torch.unique_consecutive(times), x):
            x0 = toward(estimate, torch.zeros_like(t))(x, t).x0
            x = expand(path.alpha(s), x) * x0
            if path.sigma(s).any():
                x = x + expand(path.sigma(s), x) * random.normal(x.shape, x.dtype).to(x.device)
        return x
