"""Where the camera is, frame by frame: as rays or as poses.

Rays: He et al. 2024, CameraCtrl (2404.02101), sec. 3.2: for every cell the Pluecker coordinates (o x d, d) of the
ray from the camera centre o in direction d = R K^-1 (u, v, 1), of unit length.
Poses: Wang et al. 2023, MotionCtrl (2312.03641), sec. 3.2: the twelve numbers of [R | o] of each frame, here with
the four of K, as one token per frame.

Axes: T frames of the video, t h w the latent grid. x points right, y down, z ahead.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.precision import no_autocast
from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction, Grid
from zoo.layers.embeddings import sincos


@CONDITIONERS.register("camera")
class Camera(nn.Module):
    """The camera's path: six channels of rays on the latent grid, or a token per latent frame."""

    reads = frozenset({"camera", "intrinsics"})

    def __init__(self, route: Literal["rays", "poses"] = "rays", drop: Fraction = 0.1, *, width: int, grid: Grid):
        super().__init__()
        self.route, self.drop, self.grid = route, drop, Grid(*grid)
        if route == "rays":
            self.spec = CondSpec(channels=6)
            return
        self.spec = CondSpec(tokens=width, length=grid.t, masked=False)
        self.mlp = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.null, std=0.02)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["camera"] (B,T,3,4) camera to world, batch["intrinsics"] (B,4) or (B,T,4) = fx fy cx cy in shares of
        width and height -> channels (B,6,t,h,w) or tokens (B,t,width). No ray is zero, so zeros are the null.

        The grid is that of batch["latent"], else the one built for. Raises ValueError for missing entries.
        """
        for entry in ("camera", "intrinsics"):
            if entry not in batch:
                raise ValueError(f"conditioner=camera: the batch has no '{entry}'. Give it, or leave the camera away.")
        t, h, w = batch["latent"].shape[2:] if "latent" in batch else self.grid[1:]
        pose = batch["camera"].to(drop.device, torch.float32)
        lens = batch["intrinsics"].to(drop.device, torch.float32)
        lens = lens if lens.ndim == 3 else repeat(lens, "b k -> b t k", t=pose.shape[1])
        middle = middles(pose.shape[1], t, drop.device)
        pose, lens = pose[:, middle], lens[:, middle]
        if self.route == "rays":
            return Cond(channels=rays(pose, lens, h, w).masked_fill(drop[:, None, None, None, None], 0.0))
        with no_autocast(drop.device):
            numbers = torch.cat([pose.flatten(2), lens], dim=-1).to(self.null.dtype)
            when = sincos(torch.arange(t, device=drop.device), self.null.shape[0] // 2 * 2)
            tokens = self.mlp(numbers) + F.pad(when, (0, self.null.shape[0] % 2)).to(self.null.dtype)
        return Cond(tokens=torch.where(drop[:, None, None], self.null, tokens))


def middles(num: int, latent: int, device: torch.device) -> Tensor:
    """The frame in the middle of each latent frame's share of `num` frames: (latent,) int64."""
    return ((torch.arange(latent, device=device) + 0.5) * num / latent).long()


def rays(pose: Tensor, lens: Tensor, h: int, w: int) -> Tensor:
    """pose (B,t,3,4), lens (B,t,4) -> Pluecker coordinates (o x d, d) at the middles of the cells (B,6,t,h,w)."""
    v, u = ((torch.arange(n, device=pose.device) + 0.5) / n for n in (h, w))
    fx, fy, cx, cy = rearrange(lens, "b t k -> k b t 1 1")
    x, y = ((u - cx) / fx).expand(-1, -1, h, w), ((v[:, None] - cy) / fy).expand(-1, -1, h, w)
    ahead = F.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1)  # (B,t,h,w,3)
    turn, centre = pose[..., :3], pose[..., 3]
    direction = torch.einsum("btij,bthwj->bthwi", turn, ahead)
    moment = torch.linalg.cross(rearrange(centre, "b t i -> b t 1 1 i").expand_as(direction), direction)
    return rearrange(torch.cat([moment, direction], dim=-1), "b t h w k -> b k t h w")
