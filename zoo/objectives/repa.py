"""Representation alignment: Yu et al. 2024, REPA (2410.06940), eq. 8 and 9.

    loss + weight * mean over cells of (1 - cos(y, projector(h)))

h are the hidden states after some blocks of the noisy video, y a frozen encoder's features of the clean one (the paper
leaves the 1 away). The projector and the blocks below learn from it; drawing needs neither projector nor encoder.

Axes: B batch, D width of the network, E width of the encoder, t h w the latent's grid, S = h*w.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, Encoder, Grid, NonNegative
from vidiff.video import to_float

TINY = dict(block=1, hidden=10, encoder={"name": "random_conv", "dim": 12, "layers": 1})


@OBJECTIVES.register("repa", tiny=TINY, parts=PARTS | {"encoder": "encoder"})
class Repa(Objective):
    """Any path and prediction, by default the velocity of the straight one (as SiT), with an aligned hidden state.

    `block` counts blocks from 1; `hidden` is the width of the projector, three Linears with SiLU between.
    """

    def __init__(
        self,
        path: Path | str = "linear",
        prediction: Prediction | str = "velocity",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
        encoder: Encoder | str = "random_conv",
        block: Count = 2,
        weight: NonNegative = 0.5,
        hidden: Count = 512,
        *,
        width: int,
    ):
        """Raises ValueError when the backbone has no one width (`dim`) to project from."""
        super().__init__(path, prediction, weighting, times, noise, interval)
        if not width:
            raise ValueError("the backbone has no setting 'dim' that says how wide its hidden states are.")
        self.block, self.weight, self.width = block, weight, width
        self.seen = (encoder,)  # in a tuple: the encoder is no part of the model, its weights belong in no checkpoint
        self.projector = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, encoder.dim)
        )

    def check(self, net: nn.Module, reads: frozenset[str]) -> None:
        """Raises ValueError when the network has fewer blocks, or hidden states that are not one vector per cell."""
        if self.block > len(net.blocks):
            raise ValueError(f"block is {self.block}, and the network has {len(net.blocks)} of them.")
        if not hasattr(net, "streams"):
            raise ValueError("the blocks of this backbone do not keep one vector per cell. Use a transformer.")

    def loss(self, net: Net, x0: Tensor, cond: Cond, random: Random) -> dict[str, Tensor]:
        """As every objective's, with "alignment" (B,): the mean of 1 - cos. Raises ValueError without a clean video."""
        if cond.origin is None or "video" not in cond.origin.batch:
            raise ValueError("objective repa: the condition does not say which clean video it belongs to.")
        heard: list[Tensor] = []
        listener = net.blocks[self.block - 1].register_forward_hook(lambda *call: heard.append(call[-1]))
        try:
            losses = super().loss(net, x0, cond, random)
        finally:
            listener.remove()
        hidden = cells(heard[0], Grid(*x0.shape[1:]), net)
        apart = self.apart(hidden, self.features(cond.origin.batch["video"]))
        return {**losses, "loss": losses["loss"] + self.weight * apart.mean(), "alignment": apart.detach()}

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """What the encoder sees in the clean video, uint8 or [-1,1] (B,C,T,H,W) -> (B,E,t',h',w')."""
        return self.seen[0](to_float(video) if video.dtype == torch.uint8 else video)

    def apart(self, hidden: Tensor, features: Tensor) -> Tensor:
        """hidden (B,t,h,w,D), features (B,E,t',h',w') -> 1 - cos (B,), its mean over the cells."""
        wanted = rearrange(resized(features, hidden.shape[1:4]), "b e t h w -> b t h w e")
        told = self.projector(hidden.to(self.projector[0].weight.dtype))
        return 1 - F.cosine_similarity(told.to(wanted.dtype), wanted, dim=-1).flatten(1).mean(1)


def cells(hidden: Any, grid: Grid, net: nn.Module) -> Tensor:
    """A block's answer -> (B,t,h,w,D): tokens (B,t,S,D) or (B,N,D), others before or after them left out.

    Where blocks have several streams the first is the video's.
    """
    first = hidden[0] if isinstance(hidden, tuple) else hidden
    if first.ndim == 4:
        return rearrange(first, "b t (h w) d -> b t h w d", h=grid.h)
    num = grid.t * grid.h * grid.w
    first = first[:, -num:] if getattr(net, "video_last", False) else first[:, :num]
    return rearrange(first, "b (t h w) d -> b t h w d", t=grid.t, h=grid.h)


def resized(features: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    """(B,E,t',h',w') -> (B,E,t,h,w): averaged where there are more cells, interpolated where there are fewer."""
    have = features.shape[2:]
    pooled = F.adaptive_avg_pool3d(features.float(), tuple(map(min, have, sizes)))
    return pooled if pooled.shape[2:] == tuple(sizes) else F.interpolate(pooled, tuple(sizes), mode="trilinear")
