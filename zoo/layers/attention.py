"""Multi-head self-attention around any registered attention."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.types import Attention
from zoo.layers.norms import EPS, QKNorm, head_norm

Rotation = tuple[Tensor, Tensor]
"""cos, sin (N,Dh), or (B,N,Dh) for each sample its own: what `rotate` turns queries and keys by."""


def head_dim(dim: int, num_heads: int) -> int:
    """dim / num_heads. Raises ValueError when it is no whole number."""
    if dim % num_heads:
        divisors = [n for n in range(1, dim + 1) if dim % n == 0]
        heads = min(divisors, key=lambda n: abs(n - num_heads))
        wider = (dim // num_heads + 1) * num_heads
        raise ValueError(f"dim={dim} is not divisible by num_heads={num_heads}. Use dim={wider} or num_heads={heads}.")
    return dim // num_heads


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of channels (2i, 2i+1) of x (B,heads,N,Dh) by its angle (RoFormer, 2104.09864, eq. 34).

    cos, sin are (N,Dh), the same for all heads, or (N,heads*Dh), each head its own; before that B where each sample
    has its own, which the groups that were folded into the batch behind it share.
    Done in float32 at least; an odd last channel stays as it is.
    """
    if rotation[0].ndim == 3:
        groups, rest = divmod(len(x), len(rotation[0]))
        if rest or not groups:
            raise ValueError(f"a batch of {len(x)} cannot be turned by the places of {len(rotation[0])} samples.")
        rotation = tuple(r.repeat_interleave(groups, 0) for r in rotation)
    if rotation[0].shape[-1] != x.shape[-1]:
        rotation = tuple(rearrange(r, "... n (h d) -> ... h n d", d=x.shape[-1]) for r in rotation)
    elif rotation[0].ndim == 3:
        rotation = tuple(r[:, None] for r in rotation)
    paired = x.shape[-1] // 2 * 2
    cos, sin = (r[..., :paired:2] for r in rotation)
    even, odd = x[..., :paired:2], x[..., 1:paired:2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
    return turned if paired == x.shape[-1] else torch.cat([turned, x[..., paired:]], dim=-1)


class SelfAttention(nn.Module):
    """One Linear to queries, keys and values, attention, one Linear back."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        qk_norm: QKNorm = "none",
        dropout: float = 0.0,
        qk_eps: float = EPS,
    ):
        """Raises ValueError when the heads do not divide the width."""
        super().__init__()
        self.num_heads, self.attention = num_heads, attention
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (head_norm(qk_norm, head_dim(dim, num_heads), num_heads, qk_eps) for _ in "qk")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B,N,D), mask broadcastable to (B,heads,N,N), True = keep -> (B,N,D)."""
        # a view: no backend needs its heads contiguous
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return self.dropout(self.proj(rearrange(self.attention(q, k, v, mask), "b h n d -> b n (h d)")))
