"""CosMap: Esser et al. 2024 (2403.03206, Stable Diffusion 3), sec. 3.1; the cosine schedule's levels on a line."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, within
from vidiff.registry import TIMES


@TIMES.register("cosmap")
class Cosmap(Times):
    """t = 1 - 1 / (1 + tan(pi u / 2)): on the linear path the noise levels of uniform times on `gvp`."""

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        angle = math.pi / 2 * u
        return within(interval, torch.sin(angle) / (torch.sin(angle) + torch.cos(angle)))
