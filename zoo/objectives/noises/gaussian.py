"""White Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidiff.diffusion.noise import Noise
from vidiff.random import Random
from vidiff.registry import NOISES


@NOISES.register("gaussian")
class Gaussian(Noise):
    """Independent N(0,1) in every element."""

    white = True

    def __call__(self, shape: Sequence[int], random: Random, dtype: torch.dtype = torch.float32) -> Tensor:
        return random.normal(shape, dtype)
