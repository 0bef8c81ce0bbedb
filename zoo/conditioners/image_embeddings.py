"""A picture that was encoded beforehand: its tokens come with the batch (CLIP's, for Wan's image to video, 2503.20314).

For encoders that are another program. The null condition is a picture of zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Fraction


@CONDITIONERS.register("image_embeddings", tiny=dict(dim=14, places=6))
class ImageEmbeddings(nn.Module):
    """Passes batch["image_tokens"] (B,places,dim) on; 257 places of 1280 numbers are CLIP ViT-H/14's.

    `placed`: each place has a learned vector, zero at the start, which is added to its token (Wan's first and last
    frame, whose tokens follow each other).
    """

    reads = frozenset({"image_tokens"})

    def __init__(self, dim: Count = 1280, places: Count = 257, placed: bool = False, drop: Fraction = 0.1):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(places, dim)) if placed else None
        self.drop, self.spec = drop, CondSpec(image=dim)
        self.entries = {"image_tokens": (places, dim)}

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["image_tokens"] (B,M,K), drop (B,) bool -> image (B,M,K). Raises ValueError."""
        if "image_tokens" not in batch:
            raise ValueError(
                "conditioner=image_embeddings: the batch has no image_tokens. Use a data set of encoded pictures, or "
                "let conditioner=image_clip encode a frame."
            )
        tokens = batch["image_tokens"].to(drop.device)
        if tokens.shape[1:] != self.entries["image_tokens"]:
            raise ValueError(
                f"conditioner=image_embeddings: image_tokens are {tuple(tokens.shape[1:])}, and places and dim say "
                f"{self.entries['image_tokens']}."
            )
        tokens = tokens.masked_fill(drop[:, None, None], 0.0)
        return Cond(image=tokens if self.table is None else tokens + self.table)
