"""Steps that shrink towards the data: Song et al. 2020 (DDIM, 2010.02502), app. D."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS


@SPACINGS.register("quadratic")
class Quadratic(Spacing):
    """t_i = interval[1] (1 - i/S)^2."""

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        times = interval[1] * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2
        times[:-1].clamp_(min=interval[0])
        return times
