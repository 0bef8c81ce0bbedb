"""xformers' memory-efficient attention.

Rabe & Staats 2021 (2112.05682); Lefaudeux et al., github.com/facebookresearch/xformers. Its layout is
(B,N,heads,Dh).
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vidiff.registry import ATTENTION

MASKED = -30000.0
"""Added to masked scores: exp gives 0, float16 holds it, and no row becomes -inf minus -inf."""


@cache
def ops() -> ModuleType:
    """xformers.ops, imported without its warning about extensions built for another torch."""
    logging.getLogger("xformers").setLevel(logging.ERROR)
    import xformers.ops

    return xformers.ops


@ATTENTION.register("xformers")
class XFormers:
    """xformers.ops.memory_efficient_attention. CUDA, half types or float32, head_dim in whole 16 bytes."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh), mask True = keep -> (B,heads,N,Dh), zeros where all is masked.

        Raises ValueError where it refuses; it never becomes another attention by itself.
        """
        reason = self.refuses(q.device.type, q.dtype, q.shape[-1], mask is not None)
        if reason:
            raise ValueError(reason)
        inputs = (rearrange(x, "b h n d -> b n h d") for x in (q, k, v))
        bias = None if mask is None else additive(mask, q, k)
        out = rearrange(ops().memory_efficient_attention(*inputs, attn_bias=bias), "b n h d -> b h n d")
        return out if mask is None else out.masked_fill(~mask.any(-1, keepdim=True), 0.0)

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """Anything but CUDA, a missing package, float64, heads that its kernels cannot load."""
        if device != "cuda":
            return f"attention=xformers needs a CUDA device (this is {device}). Use attention=sdpa."
        if find_spec("xformers") is None:
            return 'attention=xformers: xformers is not installed. pip install -e ".[xformers]", or attention=sdpa.'
        if dtype not in (torch.float16, torch.bfloat16, torch.float32):
            return f"attention=xformers cannot compute in {str(dtype).removeprefix('torch.')}. Use attention=sdpa."
        unit = 16 // dtype.itemsize
        if head_dim % unit:
            return f"attention=xformers needs a head_dim divisible by {unit} (this is {head_dim}). Use attention=sdpa."
        return None


def additive(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """mask broadcastable to (B,heads,N,M) -> 0 or MASKED of that shape, its rows aligned as the kernels ask."""
    b, h, n, m = *q.shape[:3], k.shape[2]
    bias = torch.zeros(b, h, n, m, dtype=q.dtype, device=q.device).masked_fill(~mask, MASKED)
    return F.pad(bias, (0, -m % 8))[..., :m]
