"""A grid written out: the times themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Fraction


@SPACINGS.register("explicit", tiny=dict(times=[0.9, 0.5, 0.4]))
class Explicit(Spacing):
    """The times as they stand, from noise to data; 0 is added at the end unless it is there.

    `times` are those of the path (flow codes' sigmas on `linear`); noise levels sigma/alpha: `explicit_levels`. Steps
    must be their number. Raises ValueError when they do not descend, or begin above the interval.
    """

    def __init__(self, times: list[Fraction]):
        self.times = torch.tensor([*times, 0.0] if not times or times[-1] else times, dtype=torch.float64, device="cpu")
        self.fixed = len(self.times) - 1
        if not self.fixed or (self.times.diff() >= 0).any():
            raise ValueError(f"times {times} must descend from noise to data, each below the one before.")

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        if steps != self.fixed:
            raise ValueError(f"{steps} steps, and the list of times is made for {self.fixed}.")
        if self.times[-2] < interval[0]:
            low = f"{self.times[-2]:g}, below the interval's beginning {interval[0]:g}"
            raise ValueError(f"the list of times ends with {low}.")
        if self.times[0] > interval[1]:
            raise ValueError(
                f"the list of times begins at {self.times[0]:g}, above the interval's end {interval[1]:g}."
            )
        return self.times.clone()
