"""Perception-prioritized weighting: Choi et al. 2022 (P2, 2204.00227), eq. 8."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS
from vidiff.types import NonNegative, Positive


@WEIGHTINGS.register("p2")
class P2(Weighting):
    """(k + SNR)^-gamma |noise - noise_hat|^2: less of the low noise levels, where only detail is left to learn."""

    space = "noise"

    def __init__(self, gamma: NonNegative = 1.0, k: Positive = 1.0):
        self.gamma, self.k = gamma, k

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return (self.k + path.logsnr(t).exp()) ** -self.gamma
