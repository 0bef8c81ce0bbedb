"""U-ViT: time, condition and patches are all tokens of one plain transformer, with long skips across it.

Bao et al. 2022 (2209.12152), sec. 3: the first half of the blocks hands its tokens to the second half, joined by
concatenation and a Linear; blocks are pre-norm transformer blocks without adaLN. The 3x3 convolution over the answer,
which mends the seams of patches there, is left out: what a patch is, is the tokenizer's business here. Frames with
times of their own (not in the paper) keep one time token, the mean over frames, and every token gets its frame's
difference from it: with one time per sample that is the paper's network.

Axes: B batch, t frames, S tokens of a frame, N = t*S, L tokens of a text, E tokens before the patches, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidiff.registry import BACKBONES
from vidiff.types import Attention, Cond, CondSpec, Count, Depth, Fraction, Grid, Positive
from zoo.layers.attention import Rotation, SelfAttention, head_dim
from zoo.layers.embeddings import TimeEmbedding
from zoo.layers.mlp import MLP, Activation
from zoo.layers.norms import EPS, WEIGHTED, Norm, QKNorm
from zoo.layers.routes import check_conditions, check_sees_all, check_times
from zoo.layers.transformer import Placing, ZeroLinear


class Block(nn.Module):
    """x + attention(norm(x)), x + MLP(norm(x)); before that, with a long skip, Linear([x, skip])."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        skip: bool,
        mlp_ratio: float,
        norm: Norm,
        qk_norm: QKNorm,
        activation: Activation,
        dropout: float,
    ):
        super().__init__()
        self.skip = nn.Linear(2 * dim, dim) if skip else None
        self.norm1, self.norm2 = (WEIGHTED[norm](dim, eps=EPS) for _ in range(2))
        self.attn = SelfAttention(dim, num_heads, attention, qk_norm, dropout)
        self.mlp = MLP(dim, round(dim * mlp_ratio), activation, dropout)

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """x and skip (B,E+N,D), mask (B,1,1,E+N) True = keep -> (B,E+N,D)."""
        if self.skip is not None:
            x = self.skip(torch.cat([x, skip], dim=-1)).to(x.dtype)
        x = x + self.attn(self.norm1(x), rotation, mask)
        return x + self.mlp(self.norm2(x))


@BACKBONES.register("uvit", tiny=dict(dim=48, depth=3, num_heads=2))
class UViT(nn.Module):
    """A transformer with long skips in which everything is a token (U-ViT).

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,dim), cond.tokens (B,L,K) with mask (B,L),
    cond.channels (B,k,t,h,w) -> (B,out_channels,t,h,w). `depth` is odd: as many blocks before the middle one as after.
    """

    uses = frozenset({"vector", "tokens", "channels"})
    zero_init = False
    streams = 1
    video_last = True

    def __init__(
        self,
        dim: Count = 512,
        depth: Depth = 13,
        num_heads: Count = 8,
        mlp_ratio: Positive = 4.0,
        norm: Norm = "layer",
        qk_norm: QKNorm = "none",
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
        """Raises ValueError for an even depth, a condition of another width, heads or positions that do not fit."""
        super().__init__()
        if depth % 2 == 0:
            raise ValueError(f"depth={depth} has no middle block for skips to pass. Use depth={depth + 1}.")
        if cond.vector not in (0, dim):
            raise ValueError(
                f"the condition's vector is {cond.vector} wide and the network {dim}. Use dim={cond.vector}."
            )
        check_sees_all(attention, "time is a token")
        self.grid, self.spec, self.recompute = Grid(*grid), cond, recompute
        self.attention, self.head_dim = attention, head_dim(dim, num_heads)
        self.masked = bool(cond.tokens) and cond.masked
        self.axes = "thw" if self.grid.t > 1 else "hw"  # an image has no time axis
        self.positions = positions(dim=dim, head_dim=self.head_dim, grid=self.grid, axes=self.axes)
        self.time = TimeEmbedding(dim, time_scale)
        self.embed = nn.Linear(self.grid.c, dim)
        self.embed_channels = ZeroLinear(cond.channels, dim, bias=False) if cond.channels else None
        self.text = nn.Linear(cond.tokens, dim) if cond.tokens else None
        self.places = nn.Parameter(torch.empty(1 + bool(cond.vector), dim))  # of time and vector
        settings = (mlp_ratio, norm, qk_norm, activation, dropout)
        self.blocks = nn.ModuleList(Block(dim, num_heads, attention, i > depth // 2, *settings) for i in range(depth))
        self.norm = WEIGHTED[norm](dim, eps=EPS)
        self.head = nn.Linear(dim, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights with standard deviation 0.02, cut at two of them, and zero biases (the official init)."""
        nn.init.trunc_normal_(self.places, std=0.02)
        for module in self.modules():
            if isinstance(module, ZeroLinear):
                module.reset_to_zero()
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def check(self, grid: Grid) -> None:
        """Raises ValueError for other channels, or for frames where the network was built for images."""
        if grid.c != self.grid.c:
            raise ValueError(f"the network was built for {self.grid.c} latent channels; {grid} has {grid.c}.")
        if self.axes == "hw" and grid.t > 1:
            raise ValueError(
                f"the network was built for images (one latent frame) and tells no times apart; this is {grid}."
            )

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t) -> (B,out_channels,t,h,w). Raises ValueError for sizes that do not fit."""
        grid = Grid(*x.shape[1:])
        self.check(grid)
        check_times(time, grid)
        check_conditions(cond, self.spec, grid)
        place = Placing(self.positions, self.axes, grid, x.device, cond.coords)
        first, differences = self.first_tokens(time, cond)
        patches = place.add(self.enter(x, cond)) + differences
        tokens = torch.cat([first, rearrange(patches, "b t s d -> b (t s) d")], dim=1)
        y = self.walk(tokens, self.rotation(place.rotation, first.shape[1]), self.mask(cond, tokens.shape[1]))
        y = self.head(self.norm(y[:, first.shape[1] :]))
        return rearrange(y, "b (t h w) c -> b c t h w", t=grid.t, h=grid.h)

    def walk(self, tokens: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """(B,E+N,D) -> (B,E+N,D): down, the middle, up with the skips in reverse."""
        skips = []
        for block in self.blocks:
            skip = (skips.pop(),) if block.skip is not None else ()
            tokens = self.run(block, tokens, rotation, mask, *skip)
            if len(skips) < len(self.blocks) // 2 and block.skip is None:
                skips.append(tokens)
        return tokens

    def first_tokens(self, time: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """Time, vector and text as tokens (B,E,D); what each frame's time differs from their mean (B,1 or t,1,D)."""
        e = self.time(time if time.ndim == 2 else time[:, None])
        mean = e.mean(1, keepdim=True)
        told = [mean] if cond.vector is None else [mean, cond.vector[:, None].to(mean.dtype)]
        first = torch.cat(told, dim=1) + self.places
        if self.text is not None:
            (text,) = cond.prepared or (self.text(cond.tokens),)
            first = torch.cat([first, text.to(first.dtype)], dim=1)
        return first, (e - mean)[:, :, None]

    def prepare(self, cond: Cond) -> Cond:
        """The condition with its tokens at the width, for all x_t and times."""
        return cond if self.text is None else replace(cond, prepared=(self.text(cond.tokens),))

    def enter(self, x: Tensor, cond: Cond) -> Tensor:
        """x (B,c,t,h,w), cond.channels (B,k,t,h,w) -> (B,t,S,D), in the precision of the weights."""
        tokens = self.embed(rearrange(x, "b c t h w -> b t (h w) c"))
        if self.embed_channels is not None:
            tokens = tokens + self.embed_channels(rearrange(cond.channels, "b k t h w -> b t (h w) k"))
        return tokens.to(self.embed.weight.dtype)

    def rotation(self, rotation: Rotation | None, num: int) -> Rotation | None:
        """cos, sin (N,Dh) of the patches -> (E+N,Dh): the tokens before them are not turned."""
        if rotation is None:
            return None
        cos, sin = rotation
        return F.pad(cos, (0, 0, num, 0), value=1.0), F.pad(sin, (0, 0, num, 0))

    def mask(self, cond: Cond, num: int) -> Tensor | None:
        """cond.mask (B,L) -> (B,1,1,num): everything but left-out text is seen."""
        if cond.mask is None:
            return None
        before, length = len(self.places), cond.mask.shape[1]
        return F.pad(cond.mask, (before, num - before - length), value=True)[:, None, None]

    def run(self, block: Block, *inputs: Tensor | Rotation | None) -> Tensor:
        """One block, its activations kept or, with `recompute`, computed again in the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
