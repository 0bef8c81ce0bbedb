"""No condition: the model of the data as a whole."""

from __future__ import annotations

from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec


@CONDITIONERS.register("none")
class NoCondition(nn.Module):
    """Tells the network nothing."""

    spec = CondSpec()
    reads = frozenset()
    drop = 0.0

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """drop (B,) -> an empty condition."""
        return Cond()
