"""Blocks that look at a text between their attention and their MLP, whatever steers them: attention to the condition.

Peebles & Xie 2022 (2212.09748), sec. 3.2, and Chen et al. 2023, PixArt-alpha (2310.00426), sec. 2.3: neither
modulated nor gated, with a last Linear that starts at zero. Beside zoo/layers/incontext.py the other way in for the
same tokens, so that nothing but the way in is compared.

Axes: B batch, T frames, S tokens of a frame, L tokens of the text, D width.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor

from vidiff.types import Attention
from zoo.layers.adaln import AdaLNBlock
from zoo.layers.norms import QKNorm
from zoo.layers.text import CrossAttention


class CrossBlock(AdaLNBlock):
    """An AdaLNBlock, with the same weights, that `reads` a text as well; without it, nothing more than one."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        reads: bool = True,
        qk_norm: QKNorm = "none",
        **settings: Any,
    ):
        super().__init__(dim, num_heads, attention, qk_norm=qk_norm, **settings)
        self.cross = CrossAttention(dim, num_heads, attention, qk_norm) if reads else None

    def look(self, x: Tensor, text: Tensor | None = None, mask: Tensor | None = None, ready: bool = False) -> Tensor:
        """x (B,T,S,D) and what it sees of text (B,L,D) with mask (B,L); `ready`: text (B,L,2D) is keys and values."""
        if self.cross is None:
            return x
        answer = self.cross(rearrange(x, "b t s d -> b (t s) d"), text, mask, None, ready)
        return x + rearrange(answer, "b (t s) d -> b t s d", t=x.shape[1])
