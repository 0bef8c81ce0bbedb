"""Height, width and aspect ratio of the video, as numbers.

Podell et al. 2023, SDXL (2307.01952), sec. 2.2; with the aspect ratio as in PixArt-alpha (2310.00426), sec. 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction
from zoo.layers.numbers import NumberEmbedding

PERCENT = 100.0
"""The aspect ratio is told in percent: the sinusoids tell numbers apart that differ by about one."""


@CONDITIONERS.register("size")
class Size(nn.Module):
    """The size a clip was made in (batch["size"], for data cropped or scaled from it), else the size it has."""

    reads = frozenset({"video"})
    also = frozenset({"size"})

    def __init__(self, drop: Fraction = 0.1, *, width: int):
        super().__init__()
        self.drop, self.spec = drop, CondSpec(vector=width)
        self.embedding = NumberEmbedding(3, width)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["size"] (B,2) = height, width in pixels, else that of batch["video"] (B,C,T,H,W) -> vector (B,width).

        Raises ValueError when the batch has neither.
        """
        if "size" in batch:
            h, w = batch["size"].to(drop.device, torch.float32).unbind(-1)
        elif "video" in batch:
            h, w = (torch.full(drop.shape, float(n), device=drop.device) for n in batch["video"].shape[-2:])
        else:
            raise ValueError("conditioner=size: the batch has no 'size' and no 'video'. Give height and width.")
        return Cond(vector=self.embedding(torch.stack([h, w, PERCENT * w / h], dim=-1), drop))
