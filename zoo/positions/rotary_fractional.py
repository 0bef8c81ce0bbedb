"""Rotary positions from fractions of a largest video, over the whole width: each head turns in its own way.

HaCohen et al. 2024, LTX-Video (2501.00103), sec. 3.2. A coordinate, times what a cell measures (`cell`), becomes
a fraction f of the largest video (`span`), and

    angle_k = (2 f - 1) * (pi/2) * base^(k / (n - 1)),   k = 0 ... n-1, n = D // (2 * axes),

so frequencies rise exponentially from pi/2 to base*pi/2. Channels are ordered frequency by frequency, (t,h,w)
within; the D % (2 * axes) left over come first and are not turned. All in float32: angles reach 15708, so its
rounding (1e-3) is part of what the published network was trained with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import POSITIONS
from vidiff.types import Grid, Positive


@POSITIONS.register("rotary_fractional")
class RotaryFractional(nn.Module):
    """LTX's rotary positions: `cell` is what a cell measures in seconds and pixels, `span` the largest video.

    LTX at 25 frames a second has latent frames of 8/25 s and cells of 32 pixels. `base_fps`: the rate that `cell` is
    told for; a clip of another rate has latent frames base_fps / fps times as long.
    """

    def __init__(
        self,
        base: Positive = 10000.0,
        cell: tuple[Positive, Positive, Positive] = (0.32, 32.0, 32.0),
        span: tuple[Positive, Positive, Positive] = (20.0, 2048.0, 2048.0),
        base_fps: Positive | None = None,
        *,
        dim: int,
        head_dim: int,
        grid: Grid,
        axes: str,
    ):
        """Raises ValueError when the width has not two pairs of channels for every axis, or heads are odd."""
        super().__init__()
        self.base_fps = base_fps
        self.base, self.dim, self.num = base, dim, dim // (2 * len(axes))
        self.lengths = [(cell["thw".index(axis)], span["thw".index(axis)]) for axis in axes]
        if self.num < 2 or head_dim % 2:
            raise ValueError(
                f"rotary_fractional positions over {axes} need an even head_dim and a dim of at least "
                f"{4 * len(axes)}: head_dim={head_dim}, dim={dim}. Use fewer heads or a larger dim."
            )

    def added(self, coords: Tensor) -> None:
        """Nothing."""

    def rotation(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """coords (*sizes, axes), or with B before, -> cos, sin (*sizes, D) float32, likewise; both channels of a pair
        hold the same number."""
        w = self.base ** torch.linspace(0, 1, self.num, device=coords.device) * math.pi / 2
        columns = zip(coords.float().unbind(-1), self.lengths, strict=True)
        fractions = torch.stack([x * cell / span for x, (cell, span) in columns], dim=-1)
        turns = w[:, None] * (2 * fractions - 1)[..., None, :]  # (*sizes, n, axes)
        turns = turns.flatten(-2).repeat_interleave(2, dim=-1)
        turns = F.pad(turns, (self.dim - turns.shape[-1], 0))
        return turns.cos(), turns.sin()
