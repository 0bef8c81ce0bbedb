"""Orthonormal Haar wavelets in time, height and width: a lossless control for learned compression.

Haar 1910; Mallat 1989, "A theory for multiresolution signal decomposition", sec. III. One level takes pairs a, b
along an axis to (a + b)/sqrt(2) and (a - b)/sqrt(2); the next level takes the low band of the last. Detail bands are
folded into the final grid by a permutation, so the whole is an orthogonal matrix: white noise on the latent is white
noise on pixels (Parseval), and nothing but the order of difficulty of the channels is new.

Axes: C channels, T frames, H W; channels ordered from coarse to fine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidiff.registry import TOKENIZERS
from vidiff.types import Grid, Natural
from zoo.layers.patch import patchify, split, unpatchify

AXES = (2, 3, 4)


@TOKENIZERS.register("haar3d", tiny=dict(levels=[1, 2, 1]))
class Haar3D(nn.Module):
    """(B,C,T,H,W) <-> (B,C*2^(a+b+c),T/2^a,H/2^b,W/2^c), `levels` = (a,b,c); the first C channels are the means."""

    frozen = True

    def __init__(self, levels: tuple[Natural, Natural, Natural] = (1, 3, 3)):
        super().__init__()
        self.levels = tuple(levels)

    def latent_shape(self, video_shape: tuple[int, int, int, int]) -> Grid:
        """(C,T,H,W) -> (C*2^(lt+lh+lw),T/2^lt,H/2^lh,W/2^lw). Raises ValueError when blocks do not tile the video."""
        return split(video_shape, blocks(self.levels), "Haar blocks", powers)

    def encode(self, video: Tensor) -> Tensor:
        """(B,C,T,H,W) -> z. Raises ValueError when blocks do not tile the video."""
        self.latent_shape(video.shape[1:])
        return analyse(video, self.levels)

    def decode(self, z: Tensor) -> Tensor:
        """z -> (B,C,T,H,W)."""
        return synthesise(z, self.levels)


def powers(sizes: Levels, block: Levels) -> Levels:
    """The nearest smaller block that tiles (T,H,W): the powers of two in them."""
    return tuple(map(math.gcd, sizes, block))


Levels = tuple[int, int, int]


def blocks(levels: Levels) -> Levels:
    """How many frames, rows and columns of the video become one cell."""
    return tuple(2**n for n in levels)


def lower(levels: Levels) -> Levels:
    """What is left to do after one level."""
    return tuple(max(n - 1, 0) for n in levels)


def analyse(x: Tensor, levels: Levels) -> Tensor:
    """One level on every axis that still has one, then the low band again, then the details in its grid."""
    axes = [axis for axis, n in zip(AXES, levels, strict=True) if n]
    if not axes:
        return x
    bands = x
    for axis in axes:
        even, odd = bands.unflatten(axis, (-1, 2)).unbind(axis + 1)
        bands = torch.cat([even + odd, even - odd], dim=1) / math.sqrt(2)
    low, high = bands[:, : x.shape[1]], bands[:, x.shape[1] :]
    rest = lower(levels)
    return torch.cat([analyse(low, rest), patchify(high, blocks(rest))], dim=1)


def synthesise(z: Tensor, levels: Levels) -> Tensor:
    """The inverse of `analyse`."""
    axes = [axis for axis, n in zip(AXES, levels, strict=True) if n]
    if not axes:
        return z
    rest = lower(levels)
    coarse = z.shape[1] // math.prod(blocks(levels)) * math.prod(blocks(rest))
    low, high = synthesise(z[:, :coarse], rest), unpatchify(z[:, coarse:], blocks(rest))
    bands = torch.cat([low, high], dim=1)
    for axis in reversed(axes):
        total, difference = (part / math.sqrt(2) for part in bands.chunk(2, dim=1))
        bands = torch.stack([total + difference, total - difference], dim=axis + 1).flatten(axis, axis + 1)
    return bands
