"""More steps where the noise is high: what large, redundant videos need.

Esser et al. 2024 (2403.03206), eq. 23: t' = s t / (1 + (s - 1) t). The counterpart of the times of that name.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Positive


@SPACINGS.register("shifted", parts={"spacing": "spacing"})
class Shifted(Spacing):
    """t' = s t / (1 + (s - 1) t) of another spacing, as a fraction of the interval's end; s = `factor`."""

    def __init__(self, factor: Positive = 3.0, spacing: Spacing | str = "uniform"):
        self.factor, self.spacing, self.fixed = factor, spacing, spacing.fixed

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        times = self.spacing(steps, path, interval)
        fraction = times / interval[1]
        return interval[1] * self.factor * fraction / (1 + (self.factor - 1) * fraction)
