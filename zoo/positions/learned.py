"""A learned vector for every place of the training grid, added to the tokens.

Dosovitskiy et al. 2020, ViT (2010.11929), sec. 3.1 and, for other grids, sec. 3.2: the table is
stretched to the new grid by (tri)linear interpolation, corners not aligned.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import POSITIONS
from vidiff.types import Grid

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@POSITIONS.register("learned")
class Learned(nn.Module):
    """A table (*sizes of the training grid, D), normal with standard deviation 0.02 at the start."""

    def __init__(self, *, dim: int, head_dim: int, grid: Grid, axes: str):
        super().__init__()
        self.table = nn.Parameter(torch.empty(*(getattr(grid, axis) for axis in axes), dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def added(self, coords: Tensor) -> Tensor:
        """coords (*sizes, axes), their shape being the grid -> (*sizes, D); stretched when the grid is another."""
        sizes = coords.shape[:-1]
        if sizes == self.table.shape[:-1]:
            return self.table
        table = rearrange(self.table, "... d -> 1 d ...")
        return rearrange(F.interpolate(table, size=sizes, mode=MODES[len(sizes)]), "1 d ... -> ... d")

    def rotation(self, coords: Tensor) -> None:
        """Nothing."""
