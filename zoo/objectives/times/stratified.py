"""Low-discrepancy times: Kingma et al. 2021 (2107.00630), app. I.1, with a permutation instead of one offset."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, open_uniform
from vidiff.random import Random
from vidiff.registry import TIMES
from vidiff.types import Grid


@TIMES.register("stratified", parts={"times": "times"})
class Stratified(Times):
    """One draw in each of B equal slices of another density, B the global batch: a loss of less variance, unbiased.

    Which row gets which slice is a random permutation shared by all processes.
    """

    def __init__(self, times: Times | str = "uniform"):
        self.times = times

    def on(self, grid: Grid) -> Times:
        return Stratified(self.times.on(grid))

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        return self.times.quantile(u, path, interval)

    def draw(self, random: Random, path: Path, interval: Interval, frames: int) -> Tensor:
        u = open_uniform(random)
        order = torch.randperm(random.total, generator=random.shared("strata"), device=random.device)
        rows = torch.tensor(random.rows, device=random.device) - random.first
        return self.quantile((order[rows] + u) / random.total, path, interval)
