"""FlexAttention: one compiled kernel for any pattern of what sees what.

Dong et al. 2024 (2412.05496); torch.nn.attention.flex_attention. Memory grows linearly with the number of tokens;
a mask that comes as a tensor is read where a score is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vidiff.registry import ATTENTION

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@ATTENTION.register("flex")
class Flex:
    """torch's flex_attention, compiled. CUDA only: on a CPU torch has no backward pass for it."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh), mask True = keep -> (B,heads,N,Dh), zeros where all is masked.

        Raises ValueError where it refuses; it never becomes another attention by itself.
        """
        reason = self.refuses(q.device.type, q.dtype, q.shape[-1], mask is not None)
        if reason:
            raise ValueError(reason)
        return flex(plain() if torch.compiler.is_compiling() else compiled(), q, k, v, mask)

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """Anything but CUDA, float64, heads of fewer than 16 channels."""
        if device != "cuda":
            return f"attention=flex trains on CUDA devices only (this is {device}). Use attention=sdpa."
        if dtype not in DTYPES:
            return f"attention=flex cannot compute in {str(dtype).removeprefix('torch.')}. Use attention=sdpa."
        if head_dim < 16:
            return f"attention=flex needs a head_dim of at least 16 (this is {head_dim}). Use attention=sdpa."
        return None


def flex(kernel: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`kernel` with the mask as a change of scores."""
    if mask is None:
        return kernel(q, k, v)
    keep = mask.expand(*q.shape[:3], k.shape[2])

    def kept(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.where(keep[b, h, i, j], score, -float("inf"))

    out = kernel(q, k, v, score_mod=kept)
    return torch.where(keep.any(-1, keepdim=True), out, 0.0)


@cache
def plain() -> Callable[..., Tensor]:
    """torch's function, imported when it is used first."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@cache
def compiled() -> Callable[..., Tensor]:
    """The fused kernel: uncompiled, torch keeps all N*M scores."""
    return torch.compile(plain(), dynamic=False)
