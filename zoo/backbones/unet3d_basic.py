"""The plain 3-D U-Net: the blocks of DDPM with 3x3x3 convolutions, and joint attention over space and time inside.

Çiçek et al. 2016, 3D U-Net (1606.06650); blocks as in Ho et al. 2020 (2006.11239), app. B, steered by scale and
shift as in Dhariwal & Nichol 2021 (2105.05233). The baseline that factorized networks are compared with.

Axes: B batch, C channels, t h w, E width of what steers the blocks.
"""

from __future__ import annotations

import math
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import BACKBONES
from vidiff.types import Attention, CondSpec, Count, Grid, Positive
from zoo.layers.attention import SelfAttention, head_dim
from zoo.layers.embeddings import TimeEmbedding
from zoo.layers.unet import UNet, double, halve, steer

GROUPS = 32


class Norm(nn.GroupNorm):
    """GroupNorm over at most 32 groups that divide the channels, in the dtype of x."""

    def __init__(self, dim: int):
        super().__init__(math.gcd(GROUPS, dim), dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,t,h,w) -> (B,C,t,h,w)."""
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps).to(x.dtype)


class ResBlock(nn.Module):
    """Twice: norm, SiLU, 3x3x3 convolution; steered after the second norm; around both a skip."""

    def __init__(self, dim: int, out: int, steered_by: int):
        super().__init__()
        self.norm1, self.norm2 = Norm(dim), Norm(out)
        self.conv1, self.conv2 = nn.Conv3d(dim, out, 3, padding=1), nn.Conv3d(out, out, 3, padding=1)
        self.steer = nn.Linear(steered_by, 2 * out)
        self.skip = nn.Conv3d(dim, out, 1) if dim != out else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B,C,t,h,w), e (B,1 or t,E) -> (B,out,t,h,w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(steer(self.norm2(y), self.steer(F.silu(e)))))
        return y + self.skip(x)


class Level(nn.Module):
    """Blocks, then half or twice the height and width."""

    def __init__(self, dim: int, out: int, steered_by: int, num_blocks: int, resize: nn.Module):
        super().__init__()
        self.res = nn.ModuleList(ResBlock(dim if i == 0 else out, out, steered_by) for i in range(num_blocks))
        self.resize = resize

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """x (B,C,t,h,w) -> (B,out,t,h,w), and the same resized."""
        for block in self.res:
            x = block(x, e)
        return x, self.resize(x)


class Middle(nn.Module):
    """A block, attention of every cell to every other, a block."""

    def __init__(self, dim: int, steered_by: int, num_heads: int, attention: Attention):
        super().__init__()
        self.res1, self.res2 = ResBlock(dim, dim, steered_by), ResBlock(dim, dim, steered_by)
        self.norm, self.attn = Norm(dim), SelfAttention(dim, num_heads, attention)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """(B,C,t,h,w) -> (B,C,t,h,w)."""
        x = self.res1(x, e)
        y = self.attn(rearrange(self.norm(x), "b c t h w -> b (t h w) c"))
        y = rearrange(y, "b (t h w) c -> b c t h w", t=x.shape[2], h=x.shape[3])
        return self.res2(x + y, e)


@BACKBONES.register("unet3d_basic", tiny=dict(dim=16, multipliers=[1, 2], num_blocks=1, num_heads=2))
class UNet3DBasic(UNet):
    """A U-Net of full 3-D convolutions, with simple attention over space and time at its bottom.

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,V), cond.channels (B,k,t,h,w) -> (B,out_channels,t,h,w).
    Level i has dim * multipliers[i] channels and half the height and width of the one before; frames are kept.
    """

    def __init__(
        self,
        dim: Count = 64,
        multipliers: tuple[Count, ...] = (1, 2, 4),
        num_blocks: Count = 2,
        num_heads: Count = 4,
        time_scale: Positive = 1000.0,
        recompute: bool = False,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        attention: Attention,
    ):
        """Raises ValueError when the heads do not divide the width of the bottom."""
        widths = [dim, *(dim * m for m in multipliers)]
        steps, e, last = list(pairwise(widths)), 4 * dim + cond.vector, len(multipliers) - 1
        bottom = widths[-1]
        super().__init__(
            time=TimeEmbedding(4 * dim, time_scale),
            stem=nn.Conv3d(grid[0], dim, 3, padding=1),
            down=[
                Level(a, b, e, num_blocks, halve(b) if i < last else nn.Identity()) for i, (a, b) in enumerate(steps)
            ],
            middle=Middle(bottom, e, num_heads, attention),
            up=[
                Level(2 * b, a, e, num_blocks, double(a) if i < last else nn.Identity())
                for i, (a, b) in enumerate(reversed(steps))
            ],
            head=nn.Sequential(Norm(2 * dim), nn.SiLU(), nn.Conv3d(2 * dim, out_channels, 3, padding=1)),
            recompute=recompute, grid=grid, cond=cond,
        )  # fmt: skip
        self.attention, self.head_dim = attention, head_dim(bottom, num_heads)
