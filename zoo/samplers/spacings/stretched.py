"""A grid stretched to end at a given time: LTX-Video's and diffusers' shift_terminal."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Fraction


@SPACINGS.register("stretched", parts={"spacing": "spacing"})
class Stretched(Spacing):
    """The times of `spacing`, their distances from t = 1 scaled so that the last one before clean is `last`.

    One step has no distance to scale and stays. Raises ValueError when `last` is 0.
    """

    def __init__(self, last: Fraction = 0.1, spacing: Spacing | str = "uniform"):
        if not 0 < last < 1:
            raise ValueError(f"last is {last:g}: the last time before clean lies strictly between 0 and 1.")
        self.last, self.spacing, self.fixed = last, spacing, spacing.fixed

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        times = self.spacing(steps, path, interval)
        if steps == 1:
            return times
        scaled = 1 - (1 - times[:-1]) * (1 - self.last) / (1 - times[-2])
        return torch.cat([scaled.clamp(*interval), times[-1:]])
