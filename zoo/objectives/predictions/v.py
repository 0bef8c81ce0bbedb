"""v-prediction: Salimans & Ho 2022 (2202.00512), app. D."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path
from vidiff.registry import PREDICTIONS


@PREDICTIONS.register("v")
class V(Prediction):
    """y = alpha noise - sigma x0."""

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return -path.sigma(t), path.alpha(t)
