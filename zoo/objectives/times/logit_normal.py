"""Logit-normal times: Esser et al. 2024 (2403.03206, Stable Diffusion 3), sec. 3.1."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, within
from vidiff.registry import TIMES
from vidiff.types import Positive


@TIMES.register("logit_normal")
class LogitNormal(Times):
    """t = sigmoid(mean + std z), z ~ N(0,1), as a fraction of the interval; a positive mean prefers noise."""

    def __init__(self, mean: float = 0.0, std: Positive = 1.0):
        self.mean, self.std = mean, std

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        return within(interval, torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)))
