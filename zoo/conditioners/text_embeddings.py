"""Text that was encoded beforehand: tokens come with the batch, and the network is told nothing else.

For encoders too large to run beside the training, and for published networks whose encoder is another
program (LTX, Wan, CogVideoX). The null condition is a text of zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Fraction


@CONDITIONERS.register("text_embeddings", tiny=dict(dim=10, length=5))
class TextEmbeddings(nn.Module):
    """Passes batch["text_tokens"] (B,length,dim) on, with batch["text_mask"] (B,length) where it is given."""

    reads = frozenset({"text_tokens"})
    also = frozenset({"text_mask"})

    def __init__(self, dim: Count = 4096, length: Count = 128, drop: Fraction = 0.1):
        super().__init__()
        self.drop, self.spec = drop, CondSpec(tokens=dim, length=length)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["text_tokens"] (B,L,K), drop (B,) bool -> tokens (B,L,K), mask (B,L). Raises ValueError."""
        if "text_tokens" not in batch:
            raise ValueError(
                "conditioner=text_embeddings: the batch has no text_tokens. Use a data set of encoded texts, or let "
                "conditioner=text_t5 or text_clip encode the prompts."
            )
        tokens = batch["text_tokens"].to(drop.device)
        if tokens.shape[1:] != (self.spec.length, self.spec.tokens):
            raise ValueError(
                f"conditioner=text_embeddings: text_tokens are {tuple(tokens.shape[1:])}, and length and dim say "
                f"({self.spec.length}, {self.spec.tokens})."
            )
        mask = batch.get("text_mask")
        mask = torch.ones(tokens.shape[:2], device=drop.device) if mask is None else mask.to(drop.device)
        return Cond(tokens=tokens.masked_fill(drop[:, None, None], 0.0), mask=mask.bool() | drop[:, None])
