"""Text beside video: its projection to the width, attention from video to text, and what text backbones share.

Axes: B batch, t frames, S tokens of a frame, L tokens of the text, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.types import Attention, Cond, CondSpec, Grid
from zoo.layers.attention import head_dim
from zoo.layers.norms import EPS, LayerNorm, QKNorm, head_norm
from zoo.layers.routes import check_sees_all
from zoo.layers.transformer import VideoTransformer

Seen = Tensor | tuple[Tensor, ...] | None
"""What blocks look at: tokens (B,L,D) for all of them, or prepared keys and values (B,L,2D) for each that looks."""


class CaptionProjection(nn.Module):
    """The two Linears with a GELU (tanh) that take a text encoder's tokens to the width (PixArt, 2310.00426)."""

    def __init__(self, tokens: int, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(tokens, dim), nn.Linear(dim, dim)

    def forward(self, text: Tensor) -> Tensor:
        """(B,L,K) -> (B,L,D)."""
        return self.fc2(F.gelu(self.fc1(text), approximate="tanh"))


class PictureProjection(nn.Module):
    """Norm, two Linears with a GELU between them, norm: a picture's tokens to the width (Wan, 2503.20314, sec. 5.1)."""

    def __init__(self, tokens: int, dim: int):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(tokens, eps=1e-5), LayerNorm(dim, eps=1e-5)
        self.fc1, self.fc2 = nn.Linear(tokens, tokens), nn.Linear(tokens, dim)

    def forward(self, picture: Tensor) -> Tensor:
        """(B,M,K) -> (B,M,D)."""
        return self.norm2(self.fc2(F.gelu(self.fc1(self.norm1(picture)))))


class CrossAttention(nn.Module):
    """Video looks at the text; the last Linear starts at zero, so a fresh one says nothing.

    With `image` the same queries look at the tokens of a picture as well, in an attention of its own, and the
    answers are added (IP-Adapter, 2308.06721, sec. 3.2.2).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        qk_norm: QKNorm = "none",
        qk_eps: float = EPS,
        image: bool = False,
    ):
        """Raises ValueError when the heads do not divide the width."""
        super().__init__()
        self.num_heads, self.attention = num_heads, attention
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm, picture_norm = (
            head_norm(qk_norm, head_dim(dim, num_heads), num_heads, qk_eps) for _ in range(3)
        )
        self.kv_image, self.k_norm_image = (nn.Linear(dim, 2 * dim), picture_norm) if image else (None, None)
        self.reset_to_zero()

    def forward(
        self, x: Tensor, text: Tensor, mask: Tensor | None = None, image: Tensor | None = None, ready: bool = False
    ) -> Tensor:
        """x (B,N,D), text (B,L,D), mask (B,L) True = keep, image (B,M,D) -> (B,N,D).

        Keys and values are made once per sample; `ready`: text (B,L,2D) and image (B,M,2D) are those already.
        """
        q = self.q_norm(rearrange(self.q(x), "b n (h d) -> b h n d", h=self.num_heads))
        seen = None if mask is None else mask[:, None, None]
        y = self.look(q, text if ready else self.kv(text), self.k_norm, seen)
        if self.kv_image is not None:
            y = y + self.look(q, image if ready else self.kv_image(image), self.k_norm_image)
        return self.proj(rearrange(y, "b h n d -> b n (h d)"))

    def look(self, q: Tensor, kv: Tensor, k_norm: nn.Module, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), keys and values (B,L,2D) -> (B,heads,N,Dh)."""
        k, v = rearrange(kv, "b l (two h d) -> two b h l d", two=2, h=self.num_heads).unbind(0)
        return self.attention(q, k_norm(k), v, mask)

    def reset_to_zero(self) -> None:
        """The answer becomes zero, whatever the text."""
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)


class TextTransformer(VideoTransformer):
    """A VideoTransformer that reads text too: tokens (B,L,K) with a mask (B,L) True = keep.

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,D), cond.tokens (B,L,K) -> (B,out_channels,t,h,w).
    `text`, a module among `others`, takes the encoder's tokens to the width. Blocks with a `cross` look at them by
    cross-attention.
    """

    uses = VideoTransformer.uses | {"tokens"}

    def __init__(self, blocks, dim, time_scale, recompute, grid: Grid, out_channels: int, cond: CondSpec, **others):
        """Raises ValueError when the condition's vector has another width."""
        super().__init__(blocks, dim, time_scale, recompute, grid, out_channels, cond, **others)
        self.reads, self.masked = cond.tokens, bool(cond.tokens) and cond.masked

    def check(self, grid: Grid) -> None:
        """Raises ValueError for other channels, and for text beside an attention that looks at neighbours only."""
        super().check(grid)
        if self.reads:
            check_sees_all(getattr(self, "attention", None), "tokens of a condition are")

    def forward(self, x: Tensor, time: Tensor, cond: Cond, **walk: Any) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t) -> (B,out_channels,t,h,w). Raises ValueError for sizes that do not fit."""
        return super().forward(x, time, cond, **self.beside(cond), **walk)

    def beside(self, cond: Cond) -> dict[str, Tensor | None]:
        """What the blocks are given beside the video's tokens."""
        return {"text": self.read(cond), "mask": cond.mask}

    def prepare(self, cond: Cond) -> Cond:
        """For all x_t and times: the tokens at the width, or keys and values (B,L,2D) for each block that looks at
        them. Raises ValueError as `read`."""
        text = self.read(replace(cond, prepared=None))
        if text is None:
            return cond
        return replace(cond, prepared=tuple(look.kv(text) for look in self.readers()) or (text,))

    def readers(self) -> list[CrossAttention]:
        """The cross-attentions of the blocks, in their order."""
        return [block.cross for block in self.blocks if getattr(block, "cross", None) is not None]

    def told(self, text: Seen, mask: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """What each block is given in its turn: its text, the mask and whether that text is keys and values already;
        nothing where it does not look."""
        ready = isinstance(text, tuple)
        texts = iter(text) if ready else itertools.repeat(text)
        return ((next(texts), mask, ready) if block.cross is not None else () for block in self.blocks)

    def read(self, cond: Cond) -> Seen:
        """The condition's tokens (B,L,K) -> (B,L,D), once per call or prepared. Raises ValueError for another width."""
        given = 0 if cond.tokens is None else cond.tokens.shape[-1]
        if given != self.reads:
            raise ValueError(f"the network was built for text tokens {self.reads} wide, and these are {given} wide.")
        if cond.tokens is None:
            return None
        if cond.prepared:
            return cond.prepared if self.readers() else cond.prepared[0]
        return self.text(cond.tokens).to(self.embed.weight.dtype)

    def walk(
        self, tokens: Tensor, c: Tensor, grid: Grid, coords: Tensor | None, text: Seen, mask: Tensor | None
    ) -> Tensor:
        """tokens (B,t,S,D) through the blocks, beside text (B,L,D) with mask (B,L) -> (B,t,S,D)."""
        raise NotImplementedError
