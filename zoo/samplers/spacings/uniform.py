"""Equal steps in time."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS


@SPACINGS.register("uniform")
class Uniform(Spacing):
    """From the end of the interval to 0. On the table paths this is the "trailing" spacing of diffusers."""

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        times = torch.linspace(interval[1], 0, steps + 1, dtype=torch.float64)
        times[:-1].clamp_(min=interval[0])
        return times
