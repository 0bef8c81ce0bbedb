"""What U-Nets on video share: levels down and up with skips between them, time and condition in every block.

Ronneberger et al. 2015 (1505.04597); Ho et al. 2022, Video Diffusion Models (2204.03458), sec. 3. Height and width
are halved from level to level, frames are kept. Grids that do not halve are padded with copies of their edge,
and the answer is cropped.

Axes: B batch, c t h w the grid, C channels, E width of what steers the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidiff.types import Cond, CondSpec, Grid
from zoo.layers.routes import check_conditions, check_times


class UNet(nn.Module):
    """A stem, levels down, a middle, levels up, a head.

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,V), cond.channels (B,k,t,h,w) -> (B,out_channels,t,h,w).
    Vectors are appended to the embedding of the time. Channels enter beside the latent's, by weights of their own
    that start at zero. A level takes (h, e, *more) to (what its skip carries, what goes on).
    """

    uses = frozenset({"vector", "channels"})
    zero_init = False

    def __init__(
        self,
        time: nn.Module,
        stem: nn.Conv3d,
        down: Sequence[nn.Module],
        middle: nn.Module,
        up: Sequence[nn.Module],
        head: nn.Module,
        recompute: bool,
        grid: Grid,
        cond: CondSpec,
        **others: nn.Module,
    ):
        super().__init__()
        self.grid, self.spec, self.recompute = Grid(*grid), cond, recompute
        self.time, self.stem, self.middle, self.head = time, stem, middle, head
        self.stem_channels = zero_like(stem, cond.channels) if cond.channels else None
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        for name, module in others.items():
            self.add_module(name, module)

    @property
    def blocks(self) -> list[nn.Module]:
        """The levels, from the first to the last."""
        return [*self.down, self.middle, *self.up]

    def check(self, grid: Grid) -> None:
        """Raises ValueError when this network cannot take a latent of this grid."""
        if grid.c != self.grid.c:
            raise ValueError(f"the network was built for {self.grid.c} latent channels; {grid} has {grid.c}.")

    def forward(self, x: Tensor, time: Tensor, cond: Cond, *more: Any) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t) -> (B,out_channels,t,h,w); `more` goes to every level.

        Raises ValueError for sizes that do not fit.
        """
        grid = Grid(*x.shape[1:])
        self.check(grid)
        check_times(time, grid)
        check_conditions(cond, self.spec, grid)
        e = self.condition(time, cond)
        first = h = self.enter(x, cond, *more)
        skips = []
        for level in self.down:
            skip, h = self.run(level, h, e, *more)
            skips.append(skip)
        h = self.run(self.middle, h, e, *more)
        for level in self.up:
            _, h = self.run(level, torch.cat([h, skips.pop()], dim=1), e, *more)
        return self.head(torch.cat([h, first], dim=1))[..., : grid.h, : grid.w]

    def enter(self, x: Tensor, cond: Cond, *more: Any) -> Tensor:
        """x (B,c,t,h,w), cond.channels (B,k,t,h,w) -> (B,C,t,h',w'), its sides padded."""
        unit = 2 ** (len(self.down) - 1)
        h = self.stem(padded(x, unit))
        return h if cond.channels is None else h + self.stem_channels(padded(cond.channels, unit))

    def condition(self, time: Tensor, cond: Cond) -> Tensor:
        """time (B,) or (B,t) and a vector (B,V) -> what steers the blocks (B,1,E) or (B,t,E)."""
        e = self.time(time if time.ndim == 2 else time[:, None])
        if cond.vector is None:
            return e
        return torch.cat([e, cond.vector.to(e.dtype)[:, None].expand(-1, e.shape[1], -1)], dim=-1)

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """One level, its activations kept or, with `recompute`, computed again in the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def padded(x: Tensor, unit: int) -> Tensor:
    """(B,C,t,h,w) -> the same with h and w whole numbers of `unit`, by copies of the last row and column."""
    h, w = (math.ceil(n / unit) * unit for n in x.shape[-2:])
    if (h, w) == tuple(x.shape[-2:]):
        return x
    return F.pad(x, (0, w - x.shape[-1], 0, h - x.shape[-2], 0, 0), mode="replicate")


def zero_like(stem: nn.Conv3d, channels: int) -> nn.Conv3d:
    """A convolution as the stem's for so many channels, without bias, that starts at zero."""
    conv = nn.Conv3d(channels, stem.out_channels, stem.kernel_size, padding=stem.padding, bias=False)
    nn.init.zeros_(conv.weight)
    return conv


def halve(dim: int) -> nn.Conv3d:
    """Half the height and width: a 4x4 convolution with stride 2."""
    return nn.Conv3d(dim, dim, (1, 4, 4), (1, 2, 2), (0, 1, 1))


def double(dim: int) -> nn.ConvTranspose3d:
    """Twice the height and width: a transposed 4x4 convolution with stride 2."""
    return nn.ConvTranspose3d(dim, dim, (1, 4, 4), (1, 2, 2), (0, 1, 1))


def steer(y: Tensor, scale_and_shift: Tensor) -> Tensor:
    """(1 + scale) * y + shift. y (B,C,t,h,w), scale_and_shift (B,1 or t,2C) -> (B,C,t,h,w)."""
    scale, shift = rearrange(scale_and_shift, "b t c -> b c t 1 1").to(y.dtype).chunk(2, dim=1)
    return torch.addcmul(shift, y, 1 + scale)
