"""Low-discrepancy times: Kingma et al. 2021 (2107.00630), app. I.1, with a permutation instead of one offset."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.times import Around, Times
from vidiff.random import Random
from vidiff.registry import TIMES
from vidiff.types import Grid


@TIMES.register("stratified", parts={"times": "times"})
class Stratified(Around):
    """One draw in each of B equal slices of another density, B the global batch: a loss of less variance, unbiased.

    Which row gets which slice is a random permutation shared by all processes; frames with times of their own have
    one each, so those of a clip stay independent.
    """

    def __init__(self, times: Times | str = "uniform"):
        super().__init__(times)

    def on(self, grid: Grid) -> Times:
        return Stratified(self.times.on(grid))

    def spread(self, u: Tensor, random: Random) -> Tensor:
        dice, rows = random.shared("strata"), torch.tensor(random.rows, device=random.device) - random.first
        columns = u.shape[1] if u.ndim == 2 else 1
        orders = [torch.randperm(random.total, generator=dice, device=random.device)[rows] for _ in range(columns)]
        return (torch.stack(orders, dim=-1).reshape(u.shape) + self.times.spread(u, random)) / random.total
