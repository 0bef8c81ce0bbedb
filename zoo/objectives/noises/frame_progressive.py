"""Progressive video noise: Ge et al. 2023 (PYoCo, 2305.10474), sec. 4.1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidiff.diffusion.noise import Noise
from vidiff.random import Random
from vidiff.registry import NOISES
from vidiff.types import NonNegative


@NOISES.register("frame_progressive")
class FrameProgressive(Noise):
    """Each frame's noise grows out of the last: alpha/sqrt(1+alpha^2) of it, plus fresh N(0, 1/(1+alpha^2)).

    Frames k apart correlate by (alpha^2 / (1 + alpha^2))^(k/2).
    """

    def __init__(self, alpha: NonNegative = 2.0):
        self.alpha = alpha

    def __call__(self, shape: Sequence[int], random: Random, dtype: torch.dtype = torch.float32) -> Tensor:
        fresh = random.normal(shape, dtype)
        frames = [fresh[:, :, 0]]
        for own in fresh[:, :, 1:].unbind(2):
            frames.append((self.alpha * frames[-1] + own) / (1 + self.alpha**2) ** 0.5)
        return torch.stack(frames, dim=2)
