"""The weighting of EDM: Karras et al. 2022 (2206.00364), table 1."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS
from vidiff.types import Positive


@WEIGHTINGS.register("edm")
class Edm(Weighting):
    """(s^2 + sigma_data^2) / (s sigma_data)^2 |x0 - x0_hat|^2 with s = sigma/alpha.

    It is 1 on the error of the `edm` prediction of the same sigma_data: set both.
    """

    space = "x0"

    def __init__(self, sigma_data: Positive = 1.0):
        self.sigma_data = sigma_data

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return path.logsnr(t).exp() + self.sigma_data**-2
