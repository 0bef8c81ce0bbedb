"""Low frequencies of small cubes: Ahmed, Natarajan & Rao 1974, "Discrete cosine transform". Nothing is learned.

Each cube of `size` pixels is described by its lowest frequencies, standardised over the clip, so that what a cube looks
like counts and not how bright it is on the whole.
"""

from __future__ import annotations

from einops import einsum, rearrange
from torch import Tensor

from vidiff.registry import ENCODERS
from vidiff.types import Count
from zoo.layers.dct import dct


@ENCODERS.register("dct", tiny=dict(size=[2, 4, 4], keep=[1, 2, 2]))
class DCT:
    """video (B,C,T,H,W) -> (B,C*kt*kh*kw,T/pt,H/ph,W/pw): `keep` frequencies along each axis of cubes of `size`."""

    def __init__(
        self,
        size: tuple[Count, Count, Count] = (2, 8, 8),
        keep: tuple[Count, Count, Count] = (2, 4, 4),
        *,
        shape: tuple[int, int, int, int],
    ):
        """Raises ValueError for more frequencies than pixels, and for cubes that do not tile the video."""
        if any(k > p for k, p in zip(keep, size, strict=True)):
            raise ValueError(f"keep={list(keep)} frequencies of cubes of {list(size)} pixels: keep as many or fewer.")
        if any(n % p for n, p in zip(shape[1:], size, strict=True)):
            raise ValueError(f"cubes of {list(size)} do not tile videos of {list(shape[1:])}.")
        self.size, self.keep = tuple(size), tuple(keep)
        self.dim = shape[0] * keep[0] * keep[1] * keep[2]

    def __call__(self, video: Tensor) -> Tensor:
        """video (B,C,T,H,W) in [-1,1] -> features (B,dim,t,h,w), of zero mean and unit variance over a clip's cubes."""
        (i, j, k), rows = self.size, [dct(p, video)[:n] for p, n in zip(self.size, self.keep, strict=True)]
        cubes = rearrange(video, "b c (t i) (h j) (w k) -> b c t h w i j k", i=i, j=j, k=k)
        spectrum = einsum(cubes, *rows, "b c t h w i j k, x i, y j, z k -> b c x y z t h w")
        features = rearrange(spectrum, "b c x y z t h w -> b (c x y z) t h w")
        centred = features - features.mean((2, 3, 4), keepdim=True)
        return centred / centred.square().mean((2, 3, 4), keepdim=True).sqrt().clamp(min=1e-4)
