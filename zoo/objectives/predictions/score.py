"""The score, the gradient of log p(x_t): Song et al. 2021 (2011.13456), eq. 7."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path
from vidiff.registry import PREDICTIONS


@PREDICTIONS.register("score")
class Score(Prediction):
    """y = -noise / sigma. Grows without bound towards t = 0: weight it (`snr` is the plain noise loss)."""

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -1 / path.sigma(t)
