"""A frame of the clip in patches, read by a small network that is trained with the large one: no download.

The patches of ViT (Dosovitskiy et al. 2020, 2010.11929) on the route of a picture's tokens beside a text
(IP-Adapter, 2308.06721; Wan's image to video, 2503.20314, sec. 5.1), for experiments without CLIP.

Axes: c t h w the latent grid, M = h*w cells of a frame.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction, Grid
from zoo.layers.embeddings import coordinates, sincos


@CONDITIONERS.register("image_patches")
class ImagePatches(nn.Module):
    """The cells of one latent frame, the first unless told: Linear, places, and an MLP around which they go."""

    reads = frozenset({"latent"})

    def __init__(self, frame: int = 0, drop: Fraction = 0.1, *, width: int, grid: Grid):
        """Raises ValueError for a frame that the latent has not."""
        super().__init__()
        if not -grid.t <= frame < grid.t:
            raise ValueError(
                f"conditioner=image_patches: frame={frame} of a latent of {grid.t}: use {-grid.t} to {grid.t - 1}."
            )
        self.frame, self.drop, self.spec = frame, drop, CondSpec(image=width)
        self.embed = nn.Linear(grid.c, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.null, std=0.02)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["latent"] (B,c,t,h,w) -> image (B,M,width). Raises ValueError when there is none."""
        if "latent" not in batch:
            raise ValueError("conditioner=image_patches: the batch has no 'latent' to take a frame from. Give a video.")
        latent = batch["latent"]
        cells = self.embed(rearrange(latent[:, :, self.frame], "b c h w -> b (h w) c"))
        row, column = coordinates(tuple(latent.shape[3:]), latent.device).flatten(0, 1).unbind(-1)
        each = cells.shape[-1] // 4 * 2  # channels of one axis, even
        where = torch.cat([sincos(row, each), sincos(column, each)], dim=-1)
        cells = cells + F.pad(where, (0, cells.shape[-1] - 2 * each)).to(cells.dtype)
        return Cond(image=torch.where(drop[:, None, None], self.null, cells + self.mlp(cells)))
