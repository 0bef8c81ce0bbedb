"""Mode sampling with heavy tails: Esser et al. 2024 (2403.03206, Stable Diffusion 3), sec. 3.1."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, within
from vidiff.registry import TIMES
from vidiff.types import Range

Scale = Annotated[float, Range(min=-1.0, max=2 / (math.pi - 2))]


@TIMES.register("mode")
class Mode(Times):
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), u uniform: the middle for a positive scale, the ends for a negative.

    Of the fraction of the way through the interval; 0 is uniform. No time has density 0, unlike in `logit_normal`.
    """

    def __init__(self, scale: Scale = 1.29):
        self.scale = scale

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        rest = 1 - u  # the formula falls with its u
        fraction = u - self.scale * (torch.cos(math.pi / 2 * rest) ** 2 - u)
        return within(interval, fraction.clamp(0, 1))
