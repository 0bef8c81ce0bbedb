"""DiT on video: every token attends to every token of the clip.

Peebles & Xie 2022 (2212.09748), with AdaLN-Zero, in-context tokens and cross-attention (sec. 3.2, fig. 3), and with
adaLN-single of PixArt-alpha (2310.00426): every way in for a condition, in one network. On images (t = 1) it is DiT
and SiT (2401.08740), with tubelets, learned positions and no condition it is Nano-Sora.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.registry import BACKBONES
from vidiff.types import Attention, CondSpec, Count, Depth, Fraction, Grid, Positive
from zoo.layers.adaln import AdaLNBlock, AdaLNHead, SharedModulation, Steering
from zoo.layers.attention import head_dim
from zoo.layers.cross import CrossBlock
from zoo.layers.embeddings import TIMES
from zoo.layers.incontext import InContextBlock, keys_kept, unturned
from zoo.layers.mlp import Activation
from zoo.layers.norms import Norm, QKNorm
from zoo.layers.text import Seen, TextTransformer
from zoo.layers.transformer import Placing


@BACKBONES.register("dit_joint", tiny=dict(dim=48, depth=2, num_heads=2))
class DiTJoint(TextTransformer):
    """A diffusion transformer with joint attention over space and time.

    x (B,c,t,h,w), time (B,) or (B,t) -> (B,out_channels,t,h,w). cond.vector (B,dim) steers the blocks with the time,
    cond.channels (B,k,t,h,w) enter beside the latent. cond.tokens (B,L,K) come in as `reading` says: in context, among
    the tokens of the video, or by cross-attention in every block.
    `modulation`: adaLN-Zero (a Linear in every block) or adaLN-single (one for all, and a table in each).
    `frequencies` of the time's sinusoid; `time_from`: it is told the time, or with "noise" 1 - time, as SiT is.
    """

    def __init__(
        self,
        dim: Count = 384,
        depth: Depth = 8,
        num_heads: Count = 6,
        mlp_ratio: Positive = 4.0,
        norm: Norm = "layer",
        qk_norm: QKNorm = "none",
        modulation: Steering = "zero",
        reading: Literal["in_context", "cross"] = "in_context",
        activation: Activation = "gelu",
        dropout: Fraction = 0.0,
        frequencies: Count = 256,
        time_scale: Positive = 1000.0,
        time_from: Literal["data", "noise"] = "data",
        recompute: bool = False,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        attention: Attention,
        positions,
    ):
        """Raises ValueError when the heads do not divide the width, or positions do not fit it."""
        kind = AdaLNBlock if not cond.tokens else CrossBlock if reading == "cross" else InContextBlock
        block = partial(
            kind, dim, num_heads, attention, mlp_ratio=mlp_ratio, qk_norm=qk_norm, activation=activation,
            dropout=dropout, norm=norm, modulation=modulation,
        )  # fmt: skip
        super().__init__(
            [block() for _ in range(depth)], dim, time_scale, recompute, grid, out_channels, cond,
            time=TIMES[time_from](dim, time_scale, frequencies),
            head=AdaLNHead(dim, out_channels, norm),
            shared=SharedModulation(dim, kind.vectors) if modulation == "single" else None,
            **({"text": nn.Linear(cond.tokens, dim)} if cond.tokens else {}),
        )  # fmt: skip
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
        self, tokens: Tensor, c: Tensor, grid: Grid, coords: Tensor | None, text: Seen, mask: Tensor | None
    ) -> Tensor:
        """tokens (B,t,S,D) -> (B,t,S,D): positions, then all blocks; with text (B,L,D) as one sequence or beside it."""
        place = Placing(self.positions, self.axes, grid, tokens.device, coords)
        tokens = place.add(tokens)
        if text is None or self.readers():
            told = [()] * len(self.blocks) if text is None else self.told(text, mask)
            for block, seen in zip(self.blocks, told, strict=True):
                tokens = self.run(block, tokens, c, place.rotation, *seen)
            return tokens
        num, length = math.prod(grid[1:]), text.shape[1]
        rotation, keep = unturned(place.rotation, length), keys_kept(mask, num)
        sequence = torch.cat([rearrange(tokens, "b t s d -> b (t s) d"), text], dim=1)
        for block in self.blocks:
            sequence = self.run(block, sequence, c, rotation, length, keep)
        return rearrange(sequence[:, :num], "b (t s) d -> b t s d", t=grid.t)
