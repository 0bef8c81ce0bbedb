"""No positions: attention sees a set of tokens."""

from __future__ import annotations

from torch import Tensor, nn

from vidiff.registry import POSITIONS
from vidiff.types import Grid


@POSITIONS.register("none")
class NoPositions(nn.Module):
    """Adds nothing and rotates nothing."""

    def __init__(self, *, dim: int, head_dim: int, grid: Grid, axes: str):
        super().__init__()

    def added(self, coords: Tensor) -> None:
        """Nothing."""

    def rotation(self, coords: Tensor) -> None:
        """Nothing."""
