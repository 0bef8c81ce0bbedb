"""The preconditioned network F of EDM: Karras et al. 2022 (2206.00364), eq. 7 and table 1.

EDM sees x/alpha at the noise level sigma/alpha, so it works on every path. Multiplied out, with
n = sigma^2 + sigma_data^2 alpha^2, nothing is divided by alpha or by sigma:

    p = sigma / (sigma_data sqrt n),  q = -sigma_data alpha / sqrt n,  D = -sqrt n / sigma_data,  c_in = 1 / sqrt n.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path, level_label
from vidiff.registry import PREDICTIONS
from vidiff.types import Positive


@PREDICTIONS.register("edm")
class Edm(Prediction):
    """y = F = (x0 - c_skip x/alpha) / c_out, a target of unit variance; the label is log(sigma/alpha) / 4.

    `sigma_data` is the standard deviation of the data: 1, as tokenizers promise, where EDM's pixels
    have 0.5. With 1, F is -v on variance-preserving paths.
    """

    def __init__(self, sigma_data: Positive = 1.0):
        self.sigma_data = sigma_data

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        root = self._root(path, t)
        return path.sigma(t) / (self.sigma_data * root), -self.sigma_data * path.alpha(t) / root

    def input_scale(self, path: Path, t: Tensor) -> Tensor:
        """c_in of x/alpha, divided by alpha."""
        return 1 / self._root(path, t)

    def label(self, path: Path, t: Tensor) -> Tensor:
        return level_label(path, t)

    def _root(self, path: Path, t: Tensor) -> Tensor:
        return (path.sigma(t) ** 2 + (self.sigma_data * path.alpha(t)) ** 2).sqrt()
