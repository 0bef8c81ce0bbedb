"""The velocity of the path: Liu et al. 2022 (2209.03003), eq. 1; Albergo et al. 2023 (2303.08797)."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path
from vidiff.registry import PREDICTIONS


@PREDICTIONS.register("velocity")
class Velocity(Prediction):
    """y = dx_t/dt = alpha' x0 + sigma' noise, towards the noise: noise - x0 on the linear path.

    Infinite at t = 1 of the `sigmoid` path, and towards t = 0 of most variance-preserving ones.
    """

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return path.alpha_dot(t), path.sigma_dot(t)
