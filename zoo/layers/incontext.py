"""Conditions as tokens among the video's own: in-context conditioning.

Peebles & Xie 2022 (2212.09748), sec. 3.2: the tokens are appended to the sequence, go through the same blocks and
are dropped before the last layer. Here adaLN steers them as well; tokens belong to no frame, so where frames have
times of their own it is the mean over frames that steers them.

Axes: B batch, T frames, S tokens of a frame, N = T*S, L tokens of the condition, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from zoo.layers.adaln import AdaLNBlock, modulate
from zoo.layers.attention import Rotation


class InContextBlock(AdaLNBlock):
    """An AdaLNBlock, with the same weights, over one sequence of video tokens followed by those of a condition."""

    def forward(
        self, x: Tensor, c: Tensor, rotation: Rotation | None, length: int, mask: Tensor | None = None
    ) -> Tensor:
        """x (B,N+L,D) with L = `length`, c (B,T or 1,1,D), mask (B,1,1,N+L) True = keep -> (B,N+L,D)."""
        each = x.shape[1] - length
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (spread(m, each, length) for m in self.adaln(c, x.dtype))
        x = torch.addcmul(x, gate_a, self.attn(modulate(x, shift_a, scale_a, self.norm), rotation, mask))
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m, self.norm)))

    def modulated(self, x: Tensor, c: Tensor, rotation: Rotation | None, length: int, *_: Any) -> Tensor:
        """What the attention is given (B,N+L,D)."""
        shift, scale, *_ = (spread(m, x.shape[1] - length, length) for m in self.adaln(c, x.dtype))
        return modulate(x, shift, scale, self.norm)


def spread(m: Tensor, num: int, length: int) -> Tensor:
    """A modulation (B,T or 1,1,D) -> what steers each token: (B,num+length,D), or (B,1,D) where it is one for all."""
    m = rearrange(m, "b t 1 d -> b t d")
    if m.shape[1] == 1:
        return m
    frames = m.repeat_interleave(num // m.shape[1], dim=1)
    return torch.cat([frames, m.mean(1, keepdim=True).expand(-1, length, -1)], dim=1)


def unturned(rotation: Rotation | None, length: int) -> Rotation | None:
    """cos, sin (N,Dh) for the video -> (N+length,Dh): tokens of a condition are not turned."""
    if rotation is None:
        return None
    cos, sin = rotation
    return F.pad(cos, (0, 0, 0, length), value=1.0), F.pad(sin, (0, 0, 0, length))


def keys_kept(mask: Tensor | None, num: int) -> Tensor | None:
    """mask (B,L) True = keep -> (B,1,1,num+L): every token of the video is seen."""
    return None if mask is None else F.pad(mask, (num, 0), value=True)[:, None, None]
