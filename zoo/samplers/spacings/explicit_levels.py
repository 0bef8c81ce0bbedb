"""A grid written out: the noise levels sigma / alpha."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import NonNegative


@SPACINGS.register("explicit_levels", tiny=dict(levels=[0.9, 0.6, 0.45]))
class ExplicitLevels(Spacing):
    """Noise levels sigma/alpha as they stand, from noise to data; 0 is added at the end unless it is there.

    On `ve` they are k-diffusion's sigmas. Steps must be their number. Raises ValueError when they do not descend, or
    when the path has no such level.
    """

    def __init__(self, levels: list[NonNegative]):
        self.levels = torch.tensor(
            [*levels, 0.0] if not levels or levels[-1] else levels, dtype=torch.float64, device="cpu"
        )
        self.fixed = len(self.levels) - 1
        if not self.fixed or (self.levels.diff() >= 0).any():
            raise ValueError(f"levels {levels} must descend from noise to data, each below the one before.")

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        if steps != self.fixed:
            raise ValueError(f"{steps} steps, and the list of levels is made for {self.fixed}.")
        end = torch.tensor(interval[1], dtype=torch.float64, device="cpu")
        highest = (path.sigma(end) / path.alpha(end)).item()
        if self.levels[0] > highest * (1 + 1e-9):
            raise ValueError(f"the list of levels begins at {self.levels[0]:g}, and the path ends at {highest:g}.")
        times = path.time(-2 * self.levels[:-1].log()).clamp(*interval)
        return torch.cat([times, times.new_zeros(1)])
