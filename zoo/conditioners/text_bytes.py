"""Text as its UTF-8 bytes, read by a small transformer that is trained with the network: no download, no vocabulary.

After Xue et al. 2021, ByT5 (2105.13626): the alphabet is the 256 bytes and a few marks; here one for the end and one
for the null condition, which so differs from the empty text. Pre-norm blocks as in GPT-2, attention both ways.

Axes: B batch, L bytes, D width of this encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Depth, Fraction
from zoo.layers.attention import SelfAttention
from zoo.layers.mlp import MLP
from zoo.layers.norms import EPS, LayerNorm

LOG = logging.getLogger("vidiff.text")

END, NULL = 256, 257
"""The marks after the 256 bytes: the end of a text (and what follows it), the null condition."""

Gives = Literal["both", "tokens", "vector"]


@CONDITIONERS.register("text_bytes", tiny=dict(dim=24, depth=1, num_heads=2, length=12))
class TextBytes(nn.Module):
    """Tokens of every byte, their mean as a vector, or both: `gives` says which routes are used.

    `length`: bytes kept of a text, its end mark included; what is cut is logged once.
    """

    reads = frozenset({"text"})

    def __init__(
        self,
        dim: Count = 128,
        depth: Depth = 2,
        num_heads: Count = 4,
        length: Count = 64,
        gives: Gives = "both",
        drop: Fraction = 0.1,
        *,
        width: int,
    ):
        """Raises ValueError when the heads do not divide the width."""
        super().__init__()
        self.drop, self.length, self.cut = drop, length, False
        self.bytes = nn.Embedding(258, dim)
        self.places = nn.Parameter(torch.empty(length, dim))
        self.blocks = nn.ModuleList(EncoderBlock(dim, num_heads) for _ in range(depth))
        self.norm = LayerNorm(dim, eps=EPS)
        self.pooled = nn.Linear(dim, width) if gives != "tokens" else None
        tokens = dim if gives != "vector" else 0
        self.spec = CondSpec(vector=width if self.pooled else 0, tokens=tokens, length=length if tokens else 0)
        for weight in (self.bytes.weight, self.places):
            nn.init.normal_(weight, std=0.02)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["text"] B strings, drop (B,) bool -> tokens (B,L,D), mask (B,L), vector (B,width)."""
        if "text" not in batch:
            raise ValueError("conditioner=text_bytes: the batch has no text. Give one per sample (--prompt).")
        ids, mask = (x.to(drop.device) for x in self.spell(batch["text"]))
        null = torch.full_like(ids, END)
        null[:, 0] = NULL
        alone = torch.arange(self.length, device=drop.device) == 0
        ids, mask = torch.where(drop[:, None], null, ids), torch.where(drop[:, None], alone, mask)
        x = self.bytes(ids) + self.places
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x) * mask[..., None]
        return Cond(
            vector=self.pooled(x.sum(1) / mask.sum(1, keepdim=True)) if self.pooled else None,
            tokens=x if self.spec.tokens else None,
            mask=mask if self.spec.tokens else None,
        )

    def spell(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> ids (B,L), mask (B,L): the bytes, the end, and behind it nothing."""
        rows = [list(text.encode())[: self.length - 1] for text in texts]
        if not self.cut and any(len(text.encode()) > self.length - 1 for text in texts):
            self.cut = True
            LOG.warning("text_bytes: texts are cut to %d bytes; conditioner.length keeps more.", self.length - 1)
        ids = torch.tensor([row + [END] * (self.length - len(row)) for row in rows])
        lengths = torch.tensor([len(row) + 1 for row in rows])
        return ids, torch.arange(self.length) < lengths[:, None]


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), x + mlp(norm(x)); every byte looks both ways."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm2 = (LayerNorm(dim, eps=EPS) for _ in range(2))
        self.attn, self.mlp = SelfAttention(dim, num_heads, plain), MLP(dim, 4 * dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B,L,D), mask (B,L) -> (B,L,D)."""
        x = x + self.attn(self.norm1(x), mask=mask[:, None, None])
        return x + self.mlp(self.norm2(x))


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's attention: a text is short, so the choice of the network's attention is left to the video."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
