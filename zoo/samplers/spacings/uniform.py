"""Equal steps in time."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Fraction


@SPACINGS.register("uniform")
class Uniform(Spacing):
    """From the end of the interval to 0. On the table paths this is the "trailing" spacing of diffusers.

    With `last` the times before clean end there: from the end of the interval to `last` in equal steps, then 0
    (SiT's last_step_size, the eps of score codes, 1/1000 in diffusers' flow schedulers).
    """

    def __init__(self, last: Fraction | None = None):
        self.last = last

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        if self.last is None:
            times = torch.linspace(interval[1], 0, steps + 1, dtype=torch.float64)
        else:
            times = torch.linspace(interval[1], self.last, steps, dtype=torch.float64)
            times = torch.cat([times, times.new_zeros(1)])
        times[:-1].clamp_(min=interval[0])
        return times
