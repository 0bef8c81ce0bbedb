"""A video diffusion transformer as a textbook writes it: the yardstick of benchmarks/step.py.

DiT's block (2212.09748, fig. 3 and sec. 3.2) in Latte's order of space and time (2401.03048, fig. 2a), written
from the papers without a thought for speed: tokens of each frame (or place) are a batch of their own, the
condition is repeated for each of them, attention is a softmax of a product.

Axes: B batch, F frames, N places of a frame, D width.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn


class Block(nn.Module):
    """adaLN-Zero, attention, MLP on (B',N,D) with a condition (B',D)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.adaln = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B',N,D), c (B',D) -> (B',N,D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(c)[:, None].chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = rearrange(self.qkv(h), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + gate1 * self.proj(rearrange(weights @ v, "b h n d -> b n (h d)"))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class Textbook(nn.Module):
    """x (B,C,F,H,W), time (B,) -> (B,out,F,H,W). `factorized`: space and time in turn; else all tokens together."""

    def __init__(self, channels: int, out: int, patch: int, dim: int, depth: int, heads: int, factorized: bool):
        super().__init__()
        self.factorized, self.patch = factorized, patch
        self.embed = nn.Conv2d(channels, dim, patch, patch)
        self.time = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.adaln = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6), nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, patch * patch * out)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Patches, blocks, pixels."""
        b, _, f, h, w = x.shape
        tokens = self.embed(rearrange(x, "b c f h w -> (b f) c h w"))
        tokens = rearrange(tokens, "(b f) d h w -> (b f) (h w) d", b=b)
        n, c = tokens.shape[1], self.time(sinusoid(time).to(x.dtype))
        if not self.factorized:
            tokens = rearrange(tokens, "(b f) n d -> b (f n) d", b=b)
            for block in self.blocks:
                tokens = block(tokens, c)
            tokens = rearrange(tokens, "b (f n) d -> (b f) n d", f=f)
        else:
            for i, block in enumerate(self.blocks):
                if i % 2:
                    tokens = rearrange(tokens, "(b f) n d -> (b n) f d", b=b)
                    tokens = rearrange(block(tokens, repeat(c, "b d -> (b n) d", n=n)), "(b n) f d -> (b f) n d", b=b)
                else:
                    tokens = block(tokens, repeat(c, "b d -> (b f) d", f=f))
        shift, scale = self.adaln(repeat(c, "b d -> (b f) 1 d", f=f)).chunk(2, dim=-1)
        y = self.head(self.norm(tokens) * (1 + scale) + shift)
        p, sizes = self.patch, dict(h=h // self.patch, w=w // self.patch)
        return rearrange(y, "(b f) (h w) (p q c) -> b c f (h p) (w q)", f=f, p=p, q=p, **sizes)


def sinusoid(time: Tensor) -> Tensor:
    """time (B,) in steps -> (B,256)."""
    w = torch.exp(-torch.arange(128, device=time.device) / 128 * torch.log(torch.tensor(10000.0)))
    return torch.cat([(time[:, None] * w).cos(), (time[:, None] * w).sin()], dim=-1)
