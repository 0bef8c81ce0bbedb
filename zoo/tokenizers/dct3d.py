"""Orthonormal cosine transform of blocks in time, height and width: a lossless control for learned compression.

Ahmed, Natarajan & Rao 1974, "Discrete cosine transform" (DCT-II). With the matrix

    M[k, n] = sqrt((2 - [k = 0]) / N) cos(pi (n + 1/2) k / N),      M M' = 1,

along each axis of a block the whole is orthogonal: white noise on the latent is white noise on pixels (Parseval).

Axes: C channels, T frames, H W; pt ph pw the block. Channels are ordered (C kt kh kw), by frequency.
"""

from __future__ import annotations

from einops import einsum, rearrange
from torch import Tensor, nn

from vidiff.precision import no_autocast
from vidiff.registry import TOKENIZERS
from vidiff.types import Count, Grid
from zoo.layers.dct import dct
from zoo.layers.patch import patchify, split, unpatchify


@TOKENIZERS.register("dct3d", tiny=dict(size=[3, 2, 4]))
class DCT3D(nn.Module):
    """(B,C,T,H,W) <-> (B,C*pt*ph*pw,T/pt,H/ph,W/pw), a channel for each frequency of a block of `size`."""

    frozen = True

    def __init__(self, size: tuple[Count, Count, Count] = (2, 8, 8)):
        super().__init__()
        self.size = tuple(size)

    def latent_shape(self, video_shape: tuple[int, int, int, int]) -> Grid:
        """(C,T,H,W) -> (C*pt*ph*pw,T/pt,H/ph,W/pw). Raises ValueError when blocks do not tile the video."""
        return split(video_shape, self.size, "blocks")

    def encode(self, video: Tensor) -> Tensor:
        """(B,C,T,H,W) -> z. Raises ValueError when blocks do not tile the video."""
        self.latent_shape(video.shape[1:])
        return self.turn(patchify(video, self.size), [dct(n, video) for n in self.size])

    def decode(self, z: Tensor) -> Tensor:
        """z -> (B,C,T,H,W): the transposed matrices."""
        return unpatchify(self.turn(z, [dct(n, z).T for n in self.size]), self.size)

    def turn(self, z: Tensor, matrices: list[Tensor]) -> Tensor:
        """A matrix along each axis of every block: (B,C*pt*ph*pw,t,h,w) of the same shape."""
        i, j, k = self.size
        cells = rearrange(z, "b (c i j k) t h w -> b c i j k (t h w)", i=i, j=j, k=k)
        with no_autocast(z.device):
            for axis, matrix in enumerate(matrices):
                names = ["b", "c", "i", "j", "k", "n"]
                old, names[2 + axis] = names[2 + axis], "new"
                pattern = "b c i j k n, new old -> ".replace("old", old) + " ".join(names)
                cells = einsum(cells, matrix, pattern)
        return rearrange(cells, "b c i j k (t h w) -> b (c i j k) t h w", t=z.shape[2], h=z.shape[3])
