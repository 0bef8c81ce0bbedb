"""AdaLN-single: one Linear makes the modulation of all blocks, and each block adds a small table of its own.

Chen et al. 2023, PixArt-alpha (2310.00426), sec. 2.3; also in LTX-Video (2501.00103) and Wan (2503.20314).
The Linear and the tables start at zero, so a fresh block is the identity (PixArt's tables are random).

Axes: B batch, T frames, S tokens of a frame, L tokens of the text, D width. c is (B,1,1,D) or (B,T,1,D).
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.types import Attention
from zoo.layers.adaln import LAYOUTS, Over
from zoo.layers.attention import Rotation, SelfAttention
from zoo.layers.mlp import MLP, Activation
from zoo.layers.norms import EPS, NORMS, LayerNorm, Norm, QKNorm, plain_norm
from zoo.layers.text import CrossAttention


class SingleBlock(nn.Module):
    """Attention over one layout, attention to the text (neither modulated nor gated), an MLP.

    `text`: whether this block looks at the text, `image`: at a picture as well. `cross_norm`: a LayerNorm with
    weights before it does (Wan).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        over: Over = "joint",
        text: bool = True,
        image: bool = False,
        mlp_ratio: float = 4.0,
        norm: Norm = "layer",
        qk_norm: QKNorm = "none",
        qk_eps: float = EPS,
        cross_norm: bool = False,
        activation: Activation = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.over, self.norm = over, NORMS[norm]
        self.table = nn.Parameter(torch.zeros(6, dim))
        self.attn = SelfAttention(dim, num_heads, attention, qk_norm, dropout, qk_eps)
        self.cross = CrossAttention(dim, num_heads, attention, qk_norm, qk_eps, image) if text else None
        self.cross_norm = LayerNorm(dim, eps=EPS) if text and cross_norm else None
        self.mlp = MLP(dim, round(dim * mlp_ratio), activation, dropout)

    def forward(
        self,
        x: Tensor,
        shared: Tensor,
        rotation: Rotation | None,
        text: Tensor | None,
        mask: Tensor | None,
        image: Tensor | None = None,
        ready: bool = False,
    ) -> Tensor:
        """x (B,T,S,D), shared (B,T or 1,1,6,D), text (B,L,D), mask (B,L), image (B,M,D) -> (B,T,S,D).

        `ready`: text (B,L,2D) and image (B,M,2D) are keys and values already.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (shared + self.table).to(x.dtype).unbind(-2)
        x = torch.addcmul(x, gate_a, self.attend(torch.addcmul(shift_a, self.norm(x), 1 + scale_a), rotation))
        if self.cross is not None:
            x = x + self.look(x, text, mask, image, ready)
        return torch.addcmul(x, gate_m, self.mlp(torch.addcmul(shift_m, self.norm(x), 1 + scale_m)))

    def modulated(self, x: Tensor, shared: Tensor, *_: Any) -> Tensor:
        """What the attention is given (B,T,S,D)."""
        shift, scale, *_ = (shared + self.table).to(x.dtype).unbind(-2)
        return torch.addcmul(shift, self.norm(x), 1 + scale)

    def attend(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """(B,T,S,D) -> (B,T,S,D), tokens meeting along `over`."""
        layout = LAYOUTS[self.over]
        b, t, s, _ = x.shape
        y = self.attn(rearrange(x, f"b t s d -> {layout}"), rotation)
        return rearrange(y, f"{layout} -> b t s d", b=b, t=t, s=s)

    def look(self, x: Tensor, text: Tensor, mask: Tensor | None, image: Tensor | None, ready: bool) -> Tensor:
        """x (B,T,S,D), text (B,L,D), image (B,M,D) -> (B,T,S,D): all tokens of a video ask the same text at once."""
        queries = rearrange(x if self.cross_norm is None else self.cross_norm(x), "b t s d -> b (t s) d")
        return rearrange(self.cross(queries, text, mask, image, ready), "b (t s) d -> b t s d", t=x.shape[1])


class SingleHead(nn.Module):
    """The last layer: norm shifted and scaled by c plus a table, and a Linear that starts at zero."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, dim))
        self.linear = nn.Linear(dim, out)
        self.reset_to_zero()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B,T,S,D), c (B,T or 1,1,D) -> (B,T,S,out)."""
        shift, scale = (c[..., None, :] + self.table).to(x.dtype).unbind(-2)
        return self.linear(torch.addcmul(shift, plain_norm(x), 1 + scale))

    def reset_to_zero(self) -> None:
        """The answer becomes zero."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
