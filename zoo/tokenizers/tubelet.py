"""Tubelets: blocks of pixels over a few frames become the channels of one cell.

Arnab et al. 2021, ViViT (2103.15691), sec. 3.2, without its Linear, which the backbone has.
"""

from __future__ import annotations

from torch import Tensor, nn

from vidiff.registry import TOKENIZERS
from vidiff.types import Count, Grid
from zoo.layers.patch import patchify, split, unpatchify


@TOKENIZERS.register("tubelet", tiny=dict(size=[2, 4, 3]))
class Tubelet(nn.Module):
    """A permutation of pixels: (B,C,T,H,W) <-> (B,C*pt*ph*pw,T/pt,H/ph,W/pw), channels ordered (C pt ph pw)."""

    frozen = True

    def __init__(self, size: tuple[Count, Count, Count] = (2, 8, 8)):
        super().__init__()
        self.size = tuple(size)

    def latent_shape(self, video_shape: tuple[int, int, int, int]) -> Grid:
        """(C,T,H,W) -> (C*pt*ph*pw,T/pt,H/ph,W/pw). Raises ValueError when tubelets do not tile the video."""
        return split(video_shape, self.size, "tubelets")

    def encode(self, video: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C*pt*ph*pw,t,h,w). Raises ValueError when tubelets do not tile the video."""
        self.latent_shape(video.shape[1:])
        return patchify(video, self.size)

    def decode(self, z: Tensor) -> Tensor:
        """(B,C*pt*ph*pw,t,h,w) -> (B,C,T,H,W)."""
        return unpatchify(z, self.size)
