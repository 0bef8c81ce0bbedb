"""Frames per second, as a number: Blattmann et al. 2023, Stable Video Diffusion (2311.15127), app. D."""

from __future__ import annotations

from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction
from zoo.layers.numbers import NumberEmbedding


@CONDITIONERS.register("fps")
class FPS(nn.Module):
    """How fast the clip plays; in the data sets of videos it is the rate after `frame_stride`."""

    reads = frozenset({"fps"})

    def __init__(self, drop: Fraction = 0.1, *, width: int):
        super().__init__()
        self.drop, self.spec = drop, CondSpec(vector=width)
        self.embedding = NumberEmbedding(1, width)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["fps"] (B,) frames per second -> vector (B,width). Raises ValueError when the batch has none."""
        if "fps" not in batch:
            raise ValueError("conditioner=fps: the batch has no 'fps'. Give one number per sample.")
        return Cond(vector=self.embedding(batch["fps"].to(drop.device)[:, None], drop))
