"""Rotary positions: queries and keys are turned by angles proportional to their coordinates.

Su et al. 2021, RoFormer (2104.09864), sec. 3.2, axis by axis: every axis turns its own section of the
head's channels, so attention depends on differences of coordinates only. Pair i of a section of n pairs
turns by coordinate * base^(-i/n). Sections are equal, or as `sections` says: of a head of 128 channels Wan
(2503.20314) gives [44, 42, 42] to t, h, w, of one of 64 CogVideoX (2408.06072) gives [16, 24, 24].

Along an axis that is s > 1 times longer than in training, `longer` chooses what turns change:
    none         nothing: angles that were never seen in training
    interpolate  coordinate / s (position interpolation, Chen et al. 2023, 2306.15595, eq. 4)
    ntk          base * s^(n/(n-1)): the fastest pair turns as before, the slowest s times slower
                 (NTK-aware, Peng et al. 2023, YaRN, 2309.00071, def. 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vidiff.registry import POSITIONS
from vidiff.types import Count, Grid, Positive
from zoo.layers.embeddings import angles


@POSITIONS.register("rotary", tiny=dict(sections=None))
class Rotary(nn.Module):
    """Axial rotary positions; channels left over when the head is split over the axes are not turned.

    `sections`: how many channels of a head belong to t, h, w; equal ones without it. `longer`: what is done on
    grids larger than that of training, axis by axis. `base_fps`: places in time are by the clock; a clip of another
    rate has its frames base_fps / fps apart, so that a second is as far in every clip.
    """

    def __init__(
        self,
        base: Positive = 10000.0,
        sections: tuple[Count, Count, Count] | None = None,
        longer: Literal["none", "interpolate", "ntk"] = "none",
        base_fps: Positive | None = None,
        *,
        dim: int,
        head_dim: int,
        grid: Grid,
        axes: str,
    ):
        """Raises ValueError when a head has no pair of channels for every axis, or sections do not fit it."""
        super().__init__()
        self.base, self.head_dim, self.longer, self.base_fps = base, head_dim, longer, base_fps
        if base_fps is not None and longer != "none":
            raise ValueError(f"longer={longer} counts frames and base_fps counts seconds. Use one of them.")
        self.trained = [getattr(grid, axis) for axis in axes]
        if sections is not None and (sum(sections) > head_dim or any(s % 2 for s in sections)):
            raise ValueError(
                f"sections={list(sections)} of t, h, w must be even and fill at most head_dim={head_dim}; "
                f"they make {sum(sections)}."
            )
        chosen = dict(zip("thw", sections or [head_dim // len(axes)] * 3, strict=True))
        self.pairs = [chosen[axis] // 2 for axis in axes]
        if min(self.pairs) == 0:
            raise ValueError(
                f"rotary positions over {axes} need a pair of channels per axis: head_dim={head_dim} has "
                f"{head_dim // 2}. Use fewer heads: a head_dim of at least {2 * len(axes)}."
            )

    def added(self, coords: Tensor) -> None:
        """Nothing."""

    def rotation(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """coords (*sizes, axes), or with B before, -> cos, sin (*sizes, Dh) float32, likewise; both channels of a pair
        hold the same number."""
        sizes = coords.shape[-1 - len(self.trained) : -1]
        columns = zip(coords.unbind(-1), self.pairs, self.stretches(sizes), strict=True)
        turns = torch.cat([self.turns(*column) for column in columns], dim=-1)
        turns = turns.repeat_interleave(2, dim=-1)
        still = turns.new_zeros(*turns.shape[:-1], self.head_dim - turns.shape[-1])
        turns = torch.cat([turns, still], dim=-1)
        return turns.cos().float(), turns.sin().float()

    def stretches(self, sizes: Sequence[int]) -> list[float]:
        """How many times as long as in training each axis is; 1 where it is shorter or nothing is done about it."""
        if self.longer == "none":
            return [1.0] * len(self.trained)
        return [max(1.0, size / known) for size, known in zip(sizes, self.trained, strict=True)]

    def turns(self, coordinate: Tensor, pairs: int, stretch: float) -> Tensor:
        """coordinate (*sizes) of an axis that is `stretch` times as long as in training -> angles (*sizes, pairs)."""
        if self.longer == "interpolate":
            return angles(coordinate / stretch, pairs, self.base)
        base = self.base * stretch ** (pairs / max(pairs - 1, 1)) if self.longer == "ntk" else self.base
        return angles(coordinate, pairs, base)
