"""How much moves, as a bucket number: Blattmann et al. 2023, Stable Video Diffusion (2311.15127), app. C and D.

They take the flow's magnitude; here it is the mean absolute change of grey levels from frame to frame, which needs
no other network:  bucket = floor(buckets * mean |x_{k+1} - x_k| / levels), at most buckets - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Fraction, Positive
from zoo.layers.numbers import NumberEmbedding


@CONDITIONERS.register("motion")
class Motion(nn.Module):
    """The motion bucket of the clip, or the one that is asked for.

    `levels` is the change, in grey levels of 0 to 255 per frame, from which on all clips share the last bucket.
    """

    reads = frozenset({"video"})
    also = frozenset({"motion"})

    def __init__(self, buckets: Count = 128, levels: Positive = 32.0, drop: Fraction = 0.1, *, width: int):
        super().__init__()
        self.buckets, self.levels, self.drop, self.spec = buckets, levels, drop, CondSpec(vector=width)
        self.embedding = NumberEmbedding(1, width)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["motion"] (B,) in [0,buckets), else measured on batch["video"] (B,C,T,H,W) -> vector (B,width).

        Raises ValueError when the batch has neither.
        """
        if "motion" not in batch and "video" not in batch:
            raise ValueError("conditioner=motion: the batch has no 'motion' and no 'video'. Give a bucket per sample.")
        bucket = batch["motion"] if "motion" in batch else self.measure(batch["video"])
        return Cond(vector=self.embedding(bucket.to(drop.device)[:, None], drop))

    def measure(self, video: Tensor) -> Tensor:
        """uint8 or [-1,1] video (B,C,T,H,W) -> bucket (B,) int64; 0 for a single frame."""
        if video.shape[2] == 1:
            return torch.zeros(len(video), dtype=torch.long, device=video.device)
        level = video.float() if video.dtype == torch.uint8 else video.float() * 127.5
        change = level.diff(dim=2).abs().flatten(1).mean(1)
        return (self.buckets * change / self.levels).long().clamp(max=self.buckets - 1)
