"""Mixed video noise: Ge et al. 2023 (PYoCo, 2305.10474), sec. 4.1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidiff.diffusion.noise import Noise
from vidiff.random import Random
from vidiff.registry import NOISES
from vidiff.types import NonNegative


@NOISES.register("frame_mixed")
class FrameMixed(Noise):
    """One noise shared by all frames, N(0, alpha^2/(1+alpha^2)), plus one of each frame, N(0, 1/(1+alpha^2))."""

    def __init__(self, alpha: NonNegative = 1.0):
        self.alpha = alpha

    def __call__(self, shape: Sequence[int], random: Random, dtype: torch.dtype = torch.float32) -> Tensor:
        batch, channels, _, height, width = shape
        own = random.normal(shape, dtype)
        shared = random.normal((batch, channels, 1, height, width), dtype)
        return (own + self.alpha * shared) / (1 + self.alpha**2) ** 0.5
