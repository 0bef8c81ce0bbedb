"""Who meets whom on a grid of tokens: attention patterns as data, each of them a reshape.

Along an axis of n = outer * inner places, with inner = k, attention reaches

    all      everywhere                                       here      its own place only
    window   the k places of its window                       strided   every k-th place
             (shifted: windows that begin half a window off)

Windows: Liu et al. 2021, Video Swin (2106.13230). Strides: Child et al. 2019, Sparse Transformers (1904.10509),
and on grids Tu et al. 2022, MaxViT (2204.01697). One axis at a time: Ho et al. 2019 (1912.12180).
Grids that do not divide are padded, and nothing real meets padding.

Axes: B batch, t h w the grid, S = h*w tokens of a frame, G groups, N tokens of a group, D width.
"""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vidiff.blocks import narrowed
from vidiff.types import Grid
from zoo.layers.attention import Rotation


class Reach(NamedTuple):
    """How far attention looks along one axis: windows of `size` places, or every `size`-th place; 0 = all of it."""

    size: int = 0
    strided: bool = False
    shifted: bool = False

    @property
    def here(self) -> bool:
        """Whether it sees no other place."""
        return self.size == 1 and not self.strided


ALL, HERE = Reach(), Reach(1)


class Pattern(NamedTuple):
    """What a token sees along time, rows and columns."""

    t: Reach
    h: Reach
    w: Reach

    @property
    def axes(self) -> str:
        """What must be known of a place to tell those that meet apart: "t", "hw" or "thw"."""
        return "t" * (not self.t.here) + "hw" * (not (self.h.here and self.w.here)) or "hw"


SPACE, TIME = Pattern(HERE, ALL, ALL), Pattern(ALL, HERE, HERE)
ROW, COLUMN = Pattern(HERE, HERE, ALL), Pattern(HERE, ALL, HERE)


class Meeting:
    """A pattern on one grid: tokens (B,t,S,D) to groups (B*G,N,D) that attend among themselves, and back.

    `mask` (B*G or 1,1,N,N) keeps padding apart and, when `causal`, the future from the past; None when all may meet.
    `rotation` cos, sin (N,Dh), or (B,N,Dh), is that of one group: rotary attention depends on differences of
    coordinates only, and groups differ by a shift.
    """

    def __init__(self, pattern: Pattern, grid: Grid, batch: int, device: torch.device, causal: bool = False):
        self.sizes, self.members, self.rotation = grid[1:], {}, None
        self.padding: list[int] = []
        lengths, names = {}, {}
        for axis, n, reach in zip("thw", self.sizes, pattern, strict=True):
            k = min(reach.size, n) or n
            before = k // 2 if reach.shifted and k < n else 0
            padded = math.ceil((n + before) / k) * k
            self.padding = [before, padded - n - before, *self.padding]  # F.pad counts from the last axis
            self.members[axis] = range(0, padded, k) if reach.strided else range(k)
            outer, inner = ("m", "g") if reach.strided else ("g", "m")
            names[axis] = f"({outer}{axis} {inner}{axis})"
            lengths |= {f"{inner}{axis}": k, f"{outer}{axis}": padded // k}
        cells, groups = "b {t} {h} {w} d".format(**names), "(b gt gh gw) (mt mh mw) d"
        if not any(self.padding):  # one reshape does
            cells = "b {t} ({h} {w}) d".format(
                **{a: name.strip("()") if a != "t" else name for a, name in names.items()}
            )
        self.to_groups, self.to_cells, self.lengths = f"{cells} -> {groups}", f"{groups} -> {cells}", lengths
        self.mask = self._mask(batch, device, causal and len(self.members["t"]) > 1)

    def gather(self, x: Tensor) -> Tensor:
        """(B,t,S,D) -> (B*G,N,D)."""
        if any(self.padding):
            x = F.pad(x.unflatten(2, self.sizes[1:]), (0, 0, *self.padding))
        return rearrange(x, self.to_groups, **self.lengths)

    def scatter(self, y: Tensor) -> Tensor:
        """(B*G,N,D) -> (B,t,S,D), the inverse of `gather`."""
        y = rearrange(y, self.to_cells, **self.lengths)
        if not any(self.padding):
            return y
        before = (self.padding[4], self.padding[2], self.padding[0])
        return y[(slice(None), *(slice(i, i + n) for i, n in zip(before, self.sizes, strict=True)))].flatten(2, 3)

    def narrowed(self, index: Tensor, num: int) -> Meeting:
        """The same for the rows of this index, out of `num`."""
        part, groups = copy(self), math.prod(n for name, n in self.lengths.items() if name[0] == "g")
        part.mask, part.rotation = (narrowed(y, index, num, groups) for y in (self.mask, self.rotation))
        return part

    def turn(self, rotation: Rotation | None, axes: str) -> Meeting:
        """Rotate queries and keys by what `axes` of the whole grid say: cos, sin (B or none, cells, Dh)."""
        if rotation is not None:
            self.rotation = tuple(self._first_group(r, axes) for r in rotation)
        return self

    def _first_group(self, whole: Tensor, axes: str) -> Tensor:
        sizes, first = dict(zip("thw", self.sizes, strict=True)), whole.ndim - 2
        whole = whole.unflatten(first, tuple(sizes[axis] for axis in axes))
        for i, axis in enumerate(axes, first):
            places = self.members[axis]
            whole = whole.narrow(i, 0, places[-1] + 1)[(slice(None),) * i + (slice(None, None, places.step),)]
        return whole.flatten(first, -2)

    def _mask(self, batch: int, device: torch.device, causal: bool) -> Tensor | None:
        if not (causal or any(self.padding)):
            return None
        t, h, w = self.sizes
        frame = torch.arange(1, t + 1, device=device)[None, :, None, None].expand(1, t, h * w, 1)  # 0 is padding
        frame = rearrange(self.gather(frame), "g n 1 -> g 1 n")
        asking, asked = frame[..., None], frame[..., None, :]  # (G,1,N,1), (G,1,1,N)
        keep = (asking > 0) == (asked > 0)
        if causal:
            keep = keep & (asked <= asking)
        return keep.repeat(batch, 1, 1, 1) if any(self.padding) else keep[:1]  # unpadded groups are all alike
