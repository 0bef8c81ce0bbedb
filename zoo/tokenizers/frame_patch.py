"""Patches of single frames: the "2D + time" view, in which a token never spans two frames.

Dosovitskiy et al. 2020, ViT (2010.11929), sec. 3.1, frame by frame, as Latte (2401.03048) has it.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from vidiff.registry import TOKENIZERS
from vidiff.types import Count, Grid
from zoo.layers.patch import Patch, divisor, patchify, split, unpatchify


@TOKENIZERS.register("frame_patch", tiny=dict(size=3))
class FramePatch(nn.Module):
    """A permutation of pixels: (B,C,T,H,W) <-> (B,C*size*size,T,H/size,W/size), channels ordered (C ph pw)."""

    frozen = True

    def __init__(self, size: Count = 8):
        super().__init__()
        self.patch = (1, size, size)

    def latent_shape(self, video_shape: tuple[int, int, int, int]) -> Grid:
        """(C,T,H,W) -> (C*size*size,T,H/size,W/size). Raises ValueError when patches do not tile a frame."""
        return split(video_shape, self.patch, "patches", square)

    def encode(self, video: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C*size*size,T,h,w). Raises ValueError when patches do not tile a frame."""
        self.latent_shape(video.shape[1:])
        return patchify(video, self.patch)

    def decode(self, z: Tensor) -> Tensor:
        """(B,C*size*size,T,h,w) -> (B,C,T,H,W)."""
        return unpatchify(z, self.patch)


def square(sizes: Patch, patch: Patch) -> Patch:
    """The nearest smaller square that tiles a frame."""
    side = divisor(math.gcd(*sizes[1:]), patch[1])
    return 1, side, side
