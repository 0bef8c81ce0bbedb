"""Local attention: a token sees its neighbours in the sequence and nothing else.

Beltagy et al. 2020, Longformer (2004.05150), sec. 3.1: |i - j| <= radius. What the sequence is says the backbone:
in temporal blocks neighbours are frames, in spatial and joint ones cells in raster order. Queries in chunks of
`radius` look at three chunks of keys, so time and memory are N * 3 radius, exactly, not N * N.

Axes: B batch, N tokens, n chunks of r = radius tokens, Dh channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vidiff.registry import ATTENTION
from vidiff.types import Count


@ATTENTION.register("window", tiny=dict(radius=3))
class Window:
    """Each token sees `radius` neighbours on either side. Self-attention only; any device, any head_dim."""

    def __init__(self, radius: Count = 64):
        self.radius = radius

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q k v (B,heads,N,Dh), mask True = keep -> (B,heads,N,Dh), zeros where all is masked. Raises ValueError."""
        heads, num, r = q.shape[1], q.shape[2], self.radius
        check(num, k.shape[2])
        chunks = -(-num // r)
        short = chunks * r - num
        q = F.pad(q, (0, 0, 0, short)).unflatten(2, (chunks, r))  # (B,heads,n,r,Dh)
        around = (F.pad(x, (0, 0, r, short + r)).unfold(2, 3 * r, r) for x in (k, v))
        k, v = (x.transpose(-1, -2) for x in around)  # (B,heads,n,3r,Dh)
        keep = self.keep(num, chunks, mask, q.device)
        keep = keep.expand(keep.shape[0] if keep.ndim == 5 else 1, heads, chunks, r, 3 * r)
        out = F.scaled_dot_product_attention(*(x.flatten(1, 2) for x in (q, k, v)), attn_mask=keep.flatten(1, 2))
        return out.unflatten(1, (heads, chunks)).flatten(2, 3)[:, :, :num]

    def keep(self, num: int, chunks: int, mask: Tensor | None, device: torch.device) -> Tensor:
        """Which of its 3r keys each token sees: (...,n,r,3r)."""
        r = self.radius
        rows = torch.arange(chunks * r, device=device).view(chunks, r, 1)
        columns = (torch.arange(chunks, device=device)[:, None] - 1) * r + torch.arange(3 * r, device=device)
        columns = columns[:, None]  # (n,1,3r)
        inside = ((rows - columns).abs() <= r) & (columns >= 0) & (columns < num)
        if mask is None:
            return inside
        mask = mask.expand(*mask.shape[:-2], num, num)
        return inside & mask[..., rows.clamp(max=num - 1), columns.clamp(0, num - 1)]

    def seen(self, num: int, keys: int, device: torch.device) -> Tensor:
        """The pairs that it looks at, as a mask (N,N). Raises ValueError for keys of another sequence."""
        check(num, keys)
        place = torch.arange(num, device=device)
        return (place[:, None] - place).abs() <= self.radius

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """Never."""
        return None


def check(num: int, keys: int) -> None:
    """Raises ValueError for cross-attention: tokens of two sequences are no neighbours."""
    if num != keys:
        raise ValueError(
            f"attention=window: {num} queries and {keys} keys are two sequences, in which there are no neighbours. "
            "Use attention=sdpa, or a backbone and a conditioner without tokens."
        )
