"""One vector that was made beforehand, such as the pooled embedding of a text; the null condition is learned.

Ho et al. 2022, Video Diffusion Models (2204.03458), sec. 4.3: BERT's vector of a caption beside the time. For encoders
that are another program; in the form of github.com/lucidrains/video-diffusion-pytorch (`cond_dim`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Fraction


@CONDITIONERS.register("vector_embeddings", tiny=dict(dim=6))
class VectorEmbeddings(nn.Module):
    """Passes batch["text_vector"] (B,dim) on; for a dropped sample a learned vector."""

    reads = frozenset({"text_vector"})

    def __init__(self, dim: Count = 768, drop: Fraction = 0.1):
        super().__init__()
        self.drop, self.spec = drop, CondSpec(vector=dim)
        self.entries = {"text_vector": (dim,)}
        self.null = nn.Parameter(torch.randn(dim))

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["text_vector"] (B,dim), drop (B,) bool -> vector (B,dim). Raises ValueError."""
        if "text_vector" not in batch:
            raise ValueError("conditioner=vector_embeddings: the batch has no text_vector. Use a data set that has it.")
        vector = batch["text_vector"].to(drop.device)
        if vector.shape[1:] != (self.spec.vector,):
            raise ValueError(
                f"conditioner=vector_embeddings: text_vector is {tuple(vector.shape[1:])}, and dim says "
                f"{self.spec.vector}."
            )
        return Cond(vector=torch.where(drop[:, None], self.null, vector.to(self.null.dtype)))
