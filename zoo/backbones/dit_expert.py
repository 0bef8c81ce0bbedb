"""Text and video as one sequence with shared weights, each with a modulation of its own: expert adaptive LayerNorm.

Yang et al. 2024, CogVideoX (2408.06072), sec. 2.2 and fig. 3. Normalisations have weights, queries and keys are
normalised per head, rotary positions turn the video only.

Axes: B batch, t frames, S tokens of a frame, L tokens of the text, N = t*S, D width, E width of the time.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import BACKBONES
from vidiff.types import Attention, Cond, CondSpec, Count, Depth, Fraction, Grid, Positive
from zoo.layers.adaln import Modulation
from zoo.layers.attention import Rotation, SelfAttention, head_dim
from zoo.layers.embeddings import TimeEmbedding
from zoo.layers.mlp import MLP, Activation
from zoo.layers.norms import WEIGHTED, Norm, QKNorm
from zoo.layers.text import TextTransformer
from zoo.layers.transformer import Placing

OFS = 2.0
"""What CogVideoX 1.5 is told beside the time."""


class ExpertNorm(nn.Module):
    """One norm for both streams, then a shift and a scale, and later a gate, for each."""

    def __init__(self, dim: int, cond_dim: int, norm: Norm, eps: float):
        super().__init__()
        self.norm, self.adaln = WEIGHTED[norm](dim, eps=eps), Modulation(dim, 6, cond_dim)

    def forward(self, video: Tensor, text: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """video (B,T,S,D), text (B,1,L,D), c (B,T or 1,1,E) -> both as one sequence (B,L+N,D), and the two gates.

        Text is told the mean over frames.
        """
        shift, scale, gate, *of_text = self.adaln(c, video.dtype)
        shift_text, scale_text, gate_text = (part.mean(1, keepdim=True) for part in of_text)
        video = torch.addcmul(shift, self.norm(video), 1 + scale)
        text = torch.addcmul(shift_text, self.norm(text), 1 + scale_text)
        return join(video, text), gate, gate_text


class ExpertBlock(nn.Module):
    """Attention over text and video together, then an MLP, weights shared, modulations not."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        cond_dim: int,
        mlp_ratio: float,
        norm: Norm,
        qk_norm: QKNorm,
        norm_eps: float,
        activation: Activation,
        dropout: float,
    ):
        super().__init__()
        self.norm1, self.norm2 = (ExpertNorm(dim, cond_dim, norm, norm_eps) for _ in range(2))
        self.attn = SelfAttention(dim, num_heads, attention, qk_norm, dropout)
        self.mlp = MLP(dim, round(dim * mlp_ratio), activation, dropout)

    def forward(
        self, video: Tensor, text: Tensor, c: Tensor, rotation: Rotation | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """video (B,T,S,D), text (B,1,L,D), c (B,T or 1,1,E), mask (B,1,1,L+N) True = keep -> both."""
        both, *gates = self.norm1(video, text, c)
        video, text = add(video, text, self.attn(both, rotation, mask), *gates)
        both, *gates = self.norm2(video, text, c)
        return add(video, text, self.mlp(both), *gates)

    def modulated(self, video: Tensor, text: Tensor, c: Tensor, *_: Any) -> Tensor:
        """What the attention is given of the video (B,T,S,D)."""
        shift, scale, *_ = self.norm1.adaln(c, video.dtype)
        return torch.addcmul(shift, self.norm1.norm(video), 1 + scale)


class ExpertHead(nn.Module):
    """A norm, another one shifted and scaled, and a Linear that starts at zero."""

    def __init__(self, dim: int, cond_dim: int, out: int, norm: Norm, eps: float):
        super().__init__()
        self.norm, self.modulated = (WEIGHTED[norm](dim, eps=eps) for _ in range(2))
        self.adaln, self.linear = Modulation(dim, 2, cond_dim), nn.Linear(dim, out)
        self.reset_to_zero()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B,T,S,D), c (B,T or 1,1,E) -> (B,T,S,out)."""
        shift, scale = self.adaln(c, x.dtype)
        return self.linear(torch.addcmul(shift, self.modulated(self.norm(x)), 1 + scale))

    def reset_to_zero(self) -> None:
        """The answer becomes zero."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


@BACKBONES.register("dit_expert", tiny=dict(dim=48, depth=2, num_heads=2, time_dim=20))
class DiTExpert(TextTransformer):
    """A diffusion transformer over text and video as one sequence, with expert adaptive LayerNorm (CogVideoX).

    x (B,c,t,h,w), time (B,) or (B,t), cond.tokens (B,L,K), cond.vector (B,dim) -> (B,out_channels,t,h,w).
    `time_dim` is the width of the time's embedding, from sinusoids of `dim` numbers. `ofs`: a second number beside
    the time, always 2, as CogVideoX 1.5 for image to video has it. `placed`: a learned vector for each place of the
    text and of the video beside their positions, as in CogVideoX 1.0 for image to video; for one grid only.
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
        qk_norm: QKNorm = "layer",
        norm_eps: Positive = 1e-5,
        activation: Activation = "gelu",
        dropout: Fraction = 0.0,
        time_dim: Count = 512,
        time_scale: Positive = 1000.0,
        ofs: bool = False,
        placed: bool = False,
        recompute: bool = False,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        attention: Attention,
        positions,
    ):
        """Raises ValueError when the heads do not divide the width, or positions do not fit it."""
        blocks = [
            ExpertBlock(dim, num_heads, attention, time_dim, mlp_ratio, norm, qk_norm, norm_eps, activation, dropout)
            for _ in range(depth)
        ]
        super().__init__(
            blocks, dim, time_scale, recompute, grid, out_channels, cond,
            time=TimeEmbedding(time_dim, time_scale, frequencies=dim),
            head=ExpertHead(dim, time_dim, out_channels, norm, norm_eps),
            text=nn.Linear(cond.tokens, dim),
            **({"vector": nn.Linear(dim, time_dim)} if cond.vector else {}),
            **({"ofs": TimeEmbedding(time_dim, scale=1.0, frequencies=time_dim)} if ofs else {}),
        )  # fmt: skip
        self.attention, self.head_dim = attention, head_dim(dim, num_heads)
        self.axes = "thw"  # an image is a clip of one frame
        self.positions = positions(dim=dim, head_dim=self.head_dim, grid=self.grid, axes=self.axes)
        self.places = nn.Parameter(torch.zeros(cond.length + math.prod(self.grid[1:]), dim)) if placed else None

    def check(self, grid: Grid) -> None:
        """Raises ValueError for other channels, and for another grid where every place has a vector of its own."""
        super().check(grid)
        if self.places is not None and grid[1:] != self.grid[1:]:
            raise ValueError(f"the network has a vector for every place of {self.grid}; this is {grid}.")

    def condition(self, time: Tensor, cond: Cond, grid: Grid) -> Tensor:
        """What steers the blocks: time (B,) or (B,t) and a vector (B,dim) -> c (B,1,1,E) or (B,t,1,E)."""
        if self.conditioned and cond.vector is not None:
            cond = replace(cond, vector=self.vector(cond.vector))
        c = super().condition(time, cond, grid)
        return c + self.ofs(time.new_full((), OFS)) if hasattr(self, "ofs") else c

    def walk(
        self, tokens: Tensor, c: Tensor, grid: Grid, coords: Tensor | None, text: Tensor, mask: Tensor | None
    ) -> Tensor:
        """tokens (B,t,S,D), text (B,L,D) -> (B,t,S,D): positions, then all blocks."""
        place = Placing(self.positions, self.axes, grid, tokens.device, coords)
        tokens, text = place.add(tokens), rearrange(text, "b l d -> b 1 l d")
        if self.places is not None:
            of_text, of_video = self.places.split([text.shape[2], math.prod(grid[1:])])
            tokens, text = tokens + of_video.unflatten(0, (grid.t, -1)), text + of_text
        rotation = still_for(text.shape[2], place.rotation)
        if mask is not None:
            mask = F.pad(mask, (0, tokens.shape[1] * tokens.shape[2]), value=True)[:, None, None]
        for block in self.blocks:
            tokens, text = self.run(block, tokens, text, c, rotation, mask)
        return tokens


def join(video: Tensor, text: Tensor) -> Tensor:
    """video (B,T,S,D), text (B,1,L,D) -> one sequence (B,L+N,D), text first."""
    return torch.cat([text.flatten(1, 2), video.flatten(1, 2)], dim=1)


def add(video: Tensor, text: Tensor, both: Tensor, gate: Tensor, gate_text: Tensor) -> tuple[Tensor, Tensor]:
    """Each stream's part of one sequence (B,L+N,D), gated, added to it."""
    to_text, to_video = both.split([text.shape[2], both.shape[1] - text.shape[2]], dim=1)
    return torch.addcmul(video, gate, to_video.reshape(video.shape)), torch.addcmul(text, gate_text, to_text[:, None])


def still_for(length: int, rotation: Rotation | None) -> Rotation | None:
    """cos, sin (N,Dh) of the video -> (L+N,Dh): the text is not turned."""
    if rotation is None:
        return None
    cos, sin = rotation
    return F.pad(cos, (0, 0, length, 0), value=1.0), F.pad(sin, (0, 0, length, 0))
