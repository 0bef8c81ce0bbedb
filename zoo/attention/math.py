"""Attention written out, in float32: the reference for every other implementation.

    softmax(q k^T / sqrt(Dh)) v            Vaswani et al. 2017 (1706.03762), eq. 1

It keeps all N*M weights, so its memory grows with the square of the number of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidiff.precision import no_autocast
from vidiff.registry import ATTENTION


@ATTENTION.register("math")
class Math:
    """Everything in float32 at least, whatever comes in and whatever AMP says. Any device, any head_dim."""

    forward_mode = True

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh), mask True = keep -> (B,heads,N,Dh), zeros where all is masked."""
        wide = torch.promote_types(q.dtype, torch.float32)
        with no_autocast(q.device):
            return (weights(q.to(wide), k.to(wide), mask) @ v.to(wide)).to(q.dtype)

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """Never."""
        return None


def weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Who looks where: (B,heads,N,M); rows sum to 1, or to 0 where everything is masked."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is None:
        return scores.softmax(-1)
    # the lowest number and not -inf, which would make NaN on the way of a row that may see nothing
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0.0)
