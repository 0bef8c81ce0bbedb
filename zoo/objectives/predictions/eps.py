"""Noise prediction: Ho et al. 2020 (2006.11239), eq. 14."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path
from vidiff.registry import PREDICTIONS


@PREDICTIONS.register("eps")
class Eps(Prediction):
    """y = noise. Impossible where alpha = 0."""

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)
