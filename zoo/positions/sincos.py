"""Fixed sinusoids of the coordinates, added to the tokens.

Vaswani et al. 2017 (1706.03762), sec. 3.5, on grids as in DiT (2212.09748). Each axis has a section of
the channels, filled with [sin, cos] of its coordinate:

    t    the whole width (Latte, 2401.03048)
    hw   first half the column w, second half the row h (DiT)
    thw  first quarter the frame t, then three eighths the column w, three eighths the row h (CogVideoX)

Coordinates are divided by `stretch` first: CogVideoX (2408.06072) takes [1, 1.875, 1.875].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.registry import POSITIONS
from vidiff.types import Grid, Positive
from zoo.layers.embeddings import finest, sincos

SECTIONS = {"t": {"t": 16}, "hw": {"w": 8, "h": 8}, "thw": {"t": 4, "w": 6, "h": 6}}
"""axes -> the axes in the order of the channels, with their share of the width in sixteenths."""


@POSITIONS.register("sincos")
class SinCos(nn.Module):
    """Sinusoidal positions; nothing is learned or stored, so any grid will do.

    `stretch`: how many cells along t, h, w count as one. `base_fps`: places in time are by the clock; a clip of another
    rate has its frames base_fps / fps apart.
    """

    def __init__(
        self,
        stretch: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0),
        base_fps: Positive | None = None,
        *,
        dim: int,
        head_dim: int,
        grid: Grid,
        axes: str,
    ):
        """Raises ValueError when the width does not split into a sine and a cosine for every axis."""
        super().__init__()
        self.stretch = {axis: stretch["thw".index(axis)] for axis in axes}
        self.base_fps = base_fps
        self.axes, unit = axes, {"t": 2, "hw": 4, "thw": 16}[axes]
        if dim % unit:
            raise ValueError(
                f"sincos positions over {axes} need a dim divisible by {unit}: dim={dim} is not. "
                f"Use dim={dim // unit * unit + unit}."
            )
        self.sections = {axis: dim * share // 16 for axis, share in SECTIONS[axes].items()}

    def added(self, coords: Tensor) -> Tensor:
        """coords (*sizes, axes), or with B before, -> (*sizes, D) float32, likewise."""
        columns = dict(zip(self.axes, coords.unbind(-1), strict=True))
        parts = [
            sincos(columns[axis].to(finest(coords.device)) / self.stretch[axis], width)
            for axis, width in self.sections.items()
        ]
        return torch.cat(parts, dim=-1)

    def rotation(self, coords: Tensor) -> None:
        """Nothing."""
