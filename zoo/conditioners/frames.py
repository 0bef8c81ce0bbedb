"""Known frames: the network sees some latent frames clean and invents the others.

As channels: Ho et al. 2022, Video Diffusion Models (2204.03458), sec. 3.1, and Stable Video Diffusion (2311.15127),
sec. 4.2: the known latents and a mask lie beside the noisy ones. As tokens: clean cells with their places, for
networks that take tokens (Diffusion Forcing Transformer, 2502.06764, sec. 4).

Axes: c t h w the latent grid, k known frames.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction, Grid
from zoo.layers.embeddings import coordinates, sincos


@CONDITIONERS.register("frames", tiny=dict(frames=[0, -1]))
class Frames(nn.Module):
    """Latent frames of the clip itself, by number, counted from the end where negative.

    [0] goes on from the first latent frame, [-1] leads to the last, [0, -1] fills in between. batch["known"]
    (B,t) bool says it for each sample instead. A latent frame of a tubelet of pt frames is pt frames of video.
    """

    reads = frozenset({"latent"})
    also = frozenset({"known"})

    def __init__(
        self,
        frames: tuple[int, ...] = (0,),
        route: Literal["channels", "tokens"] = "channels",
        drop: Fraction = 0.1,
        *,
        width: int,
        grid: Grid,
    ):
        """Raises ValueError for a frame that the latent has not."""
        super().__init__()
        beyond = [f for f in frames if not -grid.t <= f < grid.t]
        if beyond or not frames:
            raise ValueError(
                f"conditioner=frames: frames={list(frames)} of a latent of {grid.t}: "
                f"use numbers from {-grid.t} to {grid.t - 1}."
            )
        self.frames, self.route, self.drop = tuple(frames), route, drop
        if route == "channels":
            self.spec = CondSpec(channels=grid.c + 1)
            return
        known = len({f % grid.t for f in frames})
        self.spec = CondSpec(tokens=width, length=known * grid.h * grid.w)
        self.embed, self.null = nn.Linear(grid.c, width), nn.Parameter(torch.empty(width))
        nn.init.normal_(self.null, std=0.02)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["latent"] (B,c,t,h,w) -> channels (B,c+1,t,h,w), or tokens (B,k*h*w,width) with a mask.

        Raises ValueError when the batch has neither a latent nor a video.
        """
        if "latent" not in batch:
            raise ValueError("conditioner=frames: the batch has no 'latent' to take frames from. Give a video.")
        latent, given = batch["latent"], batch.get("known")
        if given is None:
            own = sorted({f % latent.shape[2] for f in self.frames})
            numbers = torch.tensor(own, device=latent.device)
            given = F.one_hot(numbers, latent.shape[2]).any(0).expand(len(latent), -1)
        else:
            given, numbers = given.to(latent.device), torch.arange(latent.shape[2], device=latent.device)
        if self.route == "channels":
            return Cond(channels=self.channels(latent, given & ~drop[:, None]))
        tokens = torch.where(drop[:, None, None], self.null, self.tokens(latent, numbers))
        seen = given[:, numbers].repeat_interleave(latent[0, 0, 0].numel(), dim=1)
        return Cond(tokens=tokens, mask=seen | drop[:, None])

    def channels(self, latent: Tensor, known: Tensor) -> Tensor:
        """latent (B,c,t,h,w), known (B,t) bool -> known latents, zero elsewhere, and the mask (B,c+1,t,h,w)."""
        keep = rearrange(known, "b t -> b 1 t 1 1")
        return torch.cat([latent.masked_fill(~keep, 0.0), keep.to(latent.dtype).expand_as(latent[:, :1])], dim=1)

    def tokens(self, latent: Tensor, numbers: Tensor) -> Tensor:
        """latent (B,c,t,h,w), k frame numbers -> clean cells with their places (B,k*h*w,width)."""
        cells = self.embed(rearrange(latent[:, :, numbers], "b c k h w -> b (k h w) c"))
        places = coordinates(tuple(latent.shape[2:]), latent.device)[numbers].flatten(0, 2)  # (k*h*w,3)
        each = cells.shape[-1] // 6 * 2  # channels of one axis, even
        where = torch.cat([sincos(axis, each) for axis in places.unbind(-1)], dim=-1)
        return cells + F.pad(where, (0, cells.shape[-1] - 3 * each)).to(cells.dtype)
