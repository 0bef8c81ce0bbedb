"""Offset noise: Guttenberg 2023, "Diffusion with offset noise" (crosslabs.org).

It lets a model change the mean of a clip, which white noise hardly hides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidiff.diffusion.noise import Noise
from vidiff.random import Random
from vidiff.registry import NOISES
from vidiff.types import NonNegative


@NOISES.register("offset")
class Offset(Noise):
    """White noise plus `strength` times one number per clip and channel, rescaled to unit variance."""

    def __init__(self, strength: NonNegative = 0.1):
        self.strength = strength

    def __call__(self, shape: Sequence[int], random: Random, dtype: torch.dtype = torch.float32) -> Tensor:
        white = random.normal(shape, dtype)
        offset = random.normal((*shape[:2], *[1] * (len(shape) - 2)), dtype)  # (B,c,1,1,1)
        return (white + self.strength * offset) / (1 + self.strength**2) ** 0.5
