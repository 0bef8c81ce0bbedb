"""Patches as a parameter-free permutation.

A convolution whose kernel equals its stride is this permutation followed by a Linear, so the Linear
is left to the backbone and every backbone shares every tokenizer. A permutation is orthogonal:
noising patches is noising pixels.

Axes: C channels, T frames, H W; pt ph pw the patch; t h w how many patches. The channels of a patch
are ordered (C pt ph pw), as the weight of a Conv3d is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from einops import rearrange
from torch import Tensor

from vidiff.types import Grid

Patch = tuple[int, int, int]


def divisor(size: int, p: int) -> int:
    """The largest divisor of a size that is at most p."""
    return max(n for n in range(1, p + 1) if size % n == 0)


def divisors(sizes: Patch, patch: Patch) -> Patch:
    """The nearest smaller patch that tiles (T,H,W)."""
    return tuple(map(divisor, sizes, patch))


def split(shape: Sequence[int], patch: Patch, word: str, fitting: Callable[[Patch, Patch], Patch] = divisors) -> Grid:
    """(C,T,H,W) -> the grid of its patches (C*pt*ph*pw, T/pt, H/ph, W/pw).

    Raises ValueError when they do not tile the video, naming the patches by `word` and those that would do.
    """
    c, *sizes = shape
    for size, p in zip(sizes, patch, strict=True):
        if size % p:
            t, h, w = sizes
            have, use = ("x".join(map(str, what)) for what in (patch, fitting(sizes, patch)))
            raise ValueError(
                f"{t} frames of {h}x{w} do not split into {word} of {have}: {size} is not divisible by {p}. "
                f"Use {word} of {use}, or clips of another size."
            )
    pt, ph, pw = patch
    return Grid(c * pt * ph * pw, sizes[0] // pt, sizes[1] // ph, sizes[2] // pw)


def patchify(video: Tensor, patch: Patch) -> Tensor:
    """(B,C,T,H,W) -> (B,C*pt*ph*pw,t,h,w)."""
    pt, ph, pw = patch
    return rearrange(video, "b c (t pt) (h ph) (w pw) -> b (c pt ph pw) t h w", pt=pt, ph=ph, pw=pw)


def unpatchify(z: Tensor, patch: Patch) -> Tensor:
    """(B,C*pt*ph*pw,t,h,w) -> (B,C,T,H,W), the inverse of `patchify`."""
    pt, ph, pw = patch
    return rearrange(z, "b (c pt ph pw) t h w -> b c (t pt) (h ph) (w pw)", pt=pt, ph=ph, pw=pw)
