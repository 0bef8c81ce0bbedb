"""Pixels as they are: every pixel of every frame is a cell of the grid."""

from __future__ import annotations

from torch import Tensor, nn

from vidiff.registry import TOKENIZERS
from vidiff.types import Grid


@TOKENIZERS.register("pixels")
class Pixels(nn.Module):
    """The identity: (B,C,T,H,W) is its own latent."""

    frozen = True

    def latent_shape(self, video_shape: tuple[int, int, int, int]) -> Grid:
        """(C,T,H,W) -> the same as a Grid."""
        return Grid(*video_shape)

    def encode(self, video: Tensor) -> Tensor:
        """(B,C,T,H,W) -> itself."""
        return video

    def decode(self, z: Tensor) -> Tensor:
        """(B,C,T,H,W) -> itself."""
        return z
