"""Text and video as two streams with weights of their own that meet in one attention: MM-DiT.

Esser et al. 2024, Stable Diffusion 3 (2403.03206), sec. 4 and fig. 2; qk-norm as in its sec. 5.3.2. The last block
has no text to hand on, so its text stream gives keys and values only.

Axes: B batch, t frames, S tokens of a frame, L tokens of the text, N = t*S, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import BACKBONES
from vidiff.types import Attention, CondSpec, Count, Depth, Fraction, Grid, Positive
from zoo.layers.adaln import AdaLNHead, Modulation, modulate
from zoo.layers.attention import Rotation, head_dim, rotate
from zoo.layers.mlp import MLP, Activation
from zoo.layers.norms import NORMS, Norm, QKNorm, head_norm
from zoo.layers.text import TextTransformer
from zoo.layers.transformer import Placing


class Shape(NamedTuple):
    """What both streams of a block are made with."""

    dim: int
    num_heads: int
    mlp_ratio: float
    qk_norm: QKNorm
    activation: Activation
    dropout: float
    norm: Norm


class Listener(nn.Module):
    """The text's side of the last block: keys and values, and nothing comes back."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.num_heads, self.norm = shape.num_heads, NORMS[shape.norm]
        self.adaln, self.kv = Modulation(shape.dim, 2), nn.Linear(shape.dim, 2 * shape.dim)
        self.k_norm = head_norm(shape.qk_norm, head_dim(shape.dim, shape.num_heads), shape.num_heads)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """x (B,T,S,D), c (B,T or 1,1,D) -> k, v (B,heads,N,Dh)."""
        h = rearrange(modulate(x, *self.adaln(c, x.dtype), self.norm), "b t s d -> b (t s) d")
        k, v = rearrange(self.kv(h), "b n (two h d) -> two b h n d", two=2, h=self.num_heads).unbind(0)
        return self.k_norm(k), v


class Stream(nn.Module):
    """One stream of a block: what it asks and says in the attention, and what it makes of the answer."""

    def __init__(self, shape: Shape):
        super().__init__()
        dim, self.num_heads, self.norm = shape.dim, shape.num_heads, NORMS[shape.norm]
        self.adaln = Modulation(dim, 6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (
            head_norm(shape.qk_norm, head_dim(dim, self.num_heads), self.num_heads) for _ in "qk"
        )
        self.mlp = MLP(dim, round(dim * shape.mlp_ratio), shape.activation, shape.dropout)

    def ask(self, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B,T,S,D) -> q, k, v (B,heads,N,Dh)."""
        h = rearrange(modulate(x, shift, scale, self.norm), "b t s d -> b (t s) d")
        q, k, v = rearrange(self.qkv(h), "b n (three h d) -> three b h n d", three=3, h=self.num_heads).unbind(0)
        return self.q_norm(q), self.k_norm(k), v

    def hear(self, x: Tensor, answer: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, gate_mlp: Tensor) -> Tensor:
        """x (B,T,S,D) and the attention's answer (B,heads,N,Dh) -> (B,T,S,D)."""
        y = self.proj(rearrange(answer, "b h (t s) d -> b t s (h d)", t=x.shape[1]))
        x = torch.addcmul(x, gate, y)
        return torch.addcmul(x, gate_mlp, self.mlp(modulate(x, shift, scale, self.norm)))


class JointBlock(nn.Module):
    """Both streams, one attention over their tokens, text first."""

    def __init__(self, shape: Shape, attention: Attention, last: bool):
        super().__init__()
        self.attention, self.last = attention, last
        self.video, self.text = Stream(shape), Listener(shape) if last else Stream(shape)

    def forward(
        self, video: Tensor, text: Tensor, c: Tensor, told: Tensor, rotation: Rotation | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """video (B,T,S,D) with c (B,T or 1,1,D), text (B,1,L,D) with `told` (B,1,1,D) -> both streams.

        mask (B,1,1,L+N), True = keep.
        """
        shift, scale, *rest = self.video.adaln(c, video.dtype)
        q, k, v = self.video.ask(video, shift, scale)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if self.last:
            k_text, v_text = self.text(text, told)
            answer = self.attention(q, torch.cat([k_text, k], 2), torch.cat([v_text, v], 2), mask)
            return self.video.hear(video, answer, *rest), None
        shift, scale, *rest_text = self.text.adaln(told, text.dtype)
        theirs = self.text.ask(text, shift, scale)
        answer = self.attention(*(torch.cat(pair, dim=2) for pair in zip(theirs, (q, k, v), strict=True)), mask)
        to_text, to_video = answer.split([text.shape[2], q.shape[2]], dim=2)
        return self.video.hear(video, to_video, *rest), self.text.hear(text, to_text, *rest_text)

    def modulated(self, video: Tensor, text: Tensor, c: Tensor, *_: Any) -> Tensor:
        """What the attention is given of the video (B,T,S,D)."""
        shift, scale, *_ = self.video.adaln(c, video.dtype)
        return modulate(video, shift, scale, self.video.norm)


@BACKBONES.register("mmdit", tiny=dict(dim=48, depth=2, num_heads=2))
class MMDiT(TextTransformer):
    """A diffusion transformer with a stream for text and one for video (Stable Diffusion 3).

    x (B,c,t,h,w), time (B,) or (B,t), cond.tokens (B,L,K), cond.vector (B,dim) -> (B,out_channels,t,h,w).
    Text is told the mean over frames where frames have times of their own; rotary positions turn the video only.
    """

    needs = frozenset({"tokens"})
    streams = 2

    def __init__(
        self,
        dim: Count = 384,
        depth: Depth = 8,
        num_heads: Count = 6,
        mlp_ratio: Positive = 4.0,
        norm: Norm = "layer",
        qk_norm: QKNorm = "rms",
        activation: Activation = "gelu",
        dropout: Fraction = 0.0,
        time_scale: Positive = 1000.0,
        recompute: bool = False,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        attention: Attention,
        positions,
    ):
        """Raises ValueError when the heads do not divide the width, or positions do not fit it."""
        shape = Shape(dim, num_heads, mlp_ratio, qk_norm, activation, dropout, norm)
        blocks = [JointBlock(shape, attention, last=i == depth - 1) for i in range(depth)]
        text = nn.Linear(cond.tokens, dim)
        head = AdaLNHead(dim, out_channels, norm)
        super().__init__(blocks, dim, time_scale, recompute, grid, out_channels, cond, text=text, head=head)
        self.attention, self.head_dim = attention, head_dim(dim, num_heads)
        self.axes = "thw" if self.grid.t > 1 else "hw"  # an image has no time axis
        self.positions = positions(dim=dim, head_dim=self.head_dim, grid=self.grid, axes=self.axes)

    def check(self, grid: Grid) -> None:
        """Raises ValueError for other channels, or for frames where the network was built for images."""
        super().check(grid)
        if self.axes == "hw" and grid.t > 1:
            raise ValueError(
                f"the network was built for images (one latent frame) and tells no times apart; this is {grid}."
            )

    def walk(
        self, tokens: Tensor, c: Tensor, grid: Grid, coords: Tensor | None, text: Tensor, mask: Tensor | None
    ) -> Tensor:
        """tokens (B,t,S,D), text (B,L,D) -> (B,t,S,D): positions, then all blocks."""
        place = Placing(self.positions, self.axes, grid, tokens.device, coords)
        tokens, text, told = place.add(tokens), rearrange(text, "b l d -> b 1 l d"), c.mean(1, keepdim=True)
        if mask is not None:
            mask = F.pad(mask, (0, tokens.shape[1] * tokens.shape[2]), value=True)[:, None, None]
        for block in self.blocks:
            tokens, text = self.run(block, tokens, text, c, told, place.rotation, mask)
        return tokens
