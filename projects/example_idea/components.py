"""An idea of one's own in one file: a video network without attention.

ConvNeXt blocks (Liu et al. 2022, 2201.03545) with 3-D depthwise convolutions and the adaLN-Zero
conditioning of DiT (Peebles & Xie 2022, 2212.09748). Nothing in vidiff knows of this file:
`idea.yaml` beside it names it under `imports:`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidiff.registry import BACKBONES
from vidiff.types import Cond, CondSpec, Count, Grid, Positive


@BACKBONES.register("convnext3d", tiny=dict(dim=12, depth=2, kernel=3))
class ConvNeXt3D(nn.Module):
    """Depthwise 3-D convolutions with adaLN-Zero: zero at initialisation, any number of frames and any size."""

    uses = frozenset({"vector"})
    zero_init = True

    def __init__(
        self,
        dim: Count = 96,
        depth: Count = 6,
        kernel: Count = 3,
        time_scale: Positive = 1000.0,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
    ):
        """`dim`, `depth`, `kernel` and `time_scale` are settings (YAML); what follows `*` comes from the builder."""
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: it must be odd, or the latent would shift.")
        self.time_scale, self.dim = time_scale, dim
        self.enter = nn.Conv3d(grid.c, dim, 1)
        self.time = nn.Sequential(nn.Linear(2 * (dim // 2), dim), nn.SiLU(), nn.Linear(dim, dim))
        self.condition = nn.Linear(cond.vector, dim) if cond.vector else None
        self.blocks = nn.ModuleList(Block(dim, kernel) for _ in range(depth))
        self.leave = nn.Conv3d(dim, out_channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t) -> (B,out_channels,t,h,w)."""
        signal = self.time(sinusoid(time * self.time_scale, self.dim // 2).to(x.dtype))
        signal = signal if signal.ndim == 3 else signal[:, None]  # (B, 1 or t, D)
        if self.condition is not None:
            signal = signal + self.condition(cond.vector)[:, None]
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, signal)
        return self.leave(x)

    def check(self, grid: Grid) -> None:
        """Every grid fits a convolution."""


class Block(nn.Module):
    """x + gate * mlp(modulate(depthwise(x)))."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.mix = nn.Conv3d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.GroupNorm(1, dim, affine=False)
        self.widen, self.narrow = nn.Conv3d(dim, 4 * dim, 1), nn.Conv3d(4 * dim, dim, 1)
        self.modulation = nn.Linear(dim, 3 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        """x (B,D,t,h,w), signal (B,1 or t,D) -> (B,D,t,h,w)."""
        shift, scale, gate = self.modulation(nn.functional.silu(signal)).mT[..., None, None].chunk(3, dim=1)
        h = self.norm(self.mix(x)) * (1 + scale) + shift
        return x + gate * self.narrow(nn.functional.gelu(self.widen(h)))


def sinusoid(time: Tensor, pairs: int) -> Tensor:
    """time (...) -> (..., 2*pairs), cosines then sines at frequencies from 1 down to 1/10000."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(pairs, device=time.device) / pairs)
    angles = time.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
