"""Normalisation of tokens, and of queries and keys, per head or across all heads.

Dehghani et al. 2023 (2302.05442), sec. 3.1 for LayerNorm; Zhang & Sennrich 2019 (1910.07467) for RMSNorm.
"""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6
"""As in the official DiT, SiT and Latte."""

QKNorm = Literal["none", "rms", "layer", "rms_across"]

Norm = Literal["layer", "rms"]
"""What a block does to its input before AdaLN shifts and scales it."""


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight over the last axis, in the dtype of x (AMP keeps weights in float32)."""

    def forward(self, x: Tensor) -> Tensor:
        """(...,Dh) -> (...,Dh)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """(x - mean(x)) / std(x) * weight + bias over the last axis, in the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        """(...,Dh) -> (...,Dh)."""
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps).to(
            x.dtype
        )


class RMSNormAcross(RMSNorm):
    """RMSNorm over all heads together, as in LTX-Video (2501.00103) and Wan (2503.20314)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,heads,N,Dh) -> (B,heads,N,Dh)."""
        return rearrange(super().forward(rearrange(x, "b h n d -> b n (h d)")), "b n (h d) -> b h n d", h=x.shape[1])


def head_norm(kind: QKNorm, head_dim: int, num_heads: int = 1, eps: float = EPS) -> nn.Module:
    """The normalisation of this name for queries or keys (B,heads,N,Dh)."""
    if kind == "none":
        return nn.Identity()
    if kind == "rms_across":
        return RMSNormAcross(num_heads * head_dim, eps=eps)
    return {"rms": RMSNorm, "layer": LayerNorm}[kind](head_dim, eps=eps)


def plain_norm(x: Tensor) -> Tensor:
    """LayerNorm without weights: what AdaLN modulates. (...,D) -> (...,D)."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def plain_rms_norm(x: Tensor) -> Tensor:
    """RMSNorm without weights. (...,D) -> (...,D)."""
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


NORMS = {"layer": plain_norm, "rms": plain_rms_norm}

WEIGHTED = {"layer": LayerNorm, "rms": RMSNorm}
"""Those with weights of their own, for blocks that have them beside what steers."""
