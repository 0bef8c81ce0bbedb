"""Data prediction: Ho et al. 2020 (2006.11239), sec. 3.2; Salimans & Ho 2022 (2202.00512)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path
from vidiff.registry import PREDICTIONS


@PREDICTIONS.register("x0")
class X0(Prediction):
    """y = x0, the clean latent."""

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)
