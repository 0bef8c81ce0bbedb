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
    (SiT's last_step_size, the eps of score codes, 1/1000 in diffusers' flow schedulers). `first` begins below the end
    of the interval (0.999 for use_flow_sigmas of diffusers' DPM-Solver, DEIS).
    """

    def __init__(self, last: Fraction | None = None, first: Fraction | None = None):
        """Raises ValueError unless `last` is below `first`, and `first` above 0."""
        if first is not None and first <= (last or 0.0):
            raise ValueError(f"first {first:g} must be above last {last or 0:g}.")
        self.last, self.first = last, first

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        first = interval[1] if self.first is None else min(self.first, interval[1])
        if self.last is None:
            times = torch.linspace(first, 0, steps + 1, dtype=torch.float64)
        else:
            times = torch.linspace(first, self.last, steps, dtype=torch.float64)
            times = torch.cat([times, times.new_zeros(1)])
        times[:-1].clamp_(min=interval[0])
        return times
