"""Small steps first, then ever larger ones: the schedule of Mochi and LTX-Video (HaCohen et al. 2024, 2501.00103)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Fraction


@SPACINGS.register("linear_quadratic")
class LinearQuadratic(Spacing):
    """Half of the steps lose `threshold` of the noise in equal parts, the others the rest along a parabola.

    One step is the whole way. On `linear` these are the published sigmas.
    """

    def __init__(self, threshold: Fraction = 0.025):
        self.threshold = threshold

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        if steps == 1:
            return torch.tensor([interval[1], 0.0], dtype=torch.float64, device="cpu")
        half = steps // 2
        i = torch.arange(steps + 1, dtype=torch.float64, device="cpu")
        speed, over = self.threshold / half, (i - half).clamp(min=0)
        curvature = (1 - speed * steps) / (steps - half) ** 2
        times = interval[1] * (1 - speed * i - curvature * over**2)
        times[-1] = 0
        times[:-1].clamp_(min=interval[0])
        return times
