"""The sigmoid schedule in continuous time: Jabri et al. 2022 (2212.11972); Chen 2023 (2301.10972), alg. 1.

Its alpha^2 is a piece of a sigmoid, rescaled to run from 1 to 0. (`ddpm_sigmoid` shapes the betas instead.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.registry import PATHS
from vidiff.types import Positive


@PATHS.register("sigmoid")
class Sigmoid(Path):
    """alpha^2 = (S(end) - S(z)) / (S(end) - S(start)) with z from start to end and S(z) = sigmoid(z / tau).

    Variance preserving; not clipped, so alpha is 0 at t = 1 (as a square root: alpha' is infinite there).
    Raises ValueError unless start < end.
    """

    def __init__(self, start: float = -3.0, end: float = 3.0, tau: Positive = 1.0):
        if start >= end:
            raise ValueError(f"start {start:g} must be below end {end:g}.")
        self.first, self.last = start / tau, end / tau
        self.length = self.last - self.first
        self.span = 2 * math.sinh(self.length / 2)

    def alpha(self, t: Tensor) -> Tensor:
        return self._share(1 - t, self.first, t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._share(t, self.last, t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self._signal_loss(t) / (2 * self.alpha(t))

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._signal_loss(t) / (2 * self.sigma(t))

    def time(self, logsnr: Tensor) -> Tensor:
        clean, noisy = (torch.sigmoid(torch.full_like(logsnr, z)) for z in (self.first, self.last))
        z = torch.logit(torch.sigmoid(-logsnr) * noisy + torch.sigmoid(logsnr) * clean)
        return ((z - self.first) / self.length).clamp(0, 1)

    def _z(self, t: Tensor) -> Tensor:
        return self.first + t * self.length

    def _share(self, fraction: Tensor, other: float, t: Tensor) -> Tensor:
        # sqrt of S(b) - S(a) = sinh((b - a)/2) / (2 cosh(a/2) cosh(b/2)), over the whole: no digits lost,
        # and exactly 1 at the end, where both quotients are of equal numbers
        whole, end = torch.full_like(t, self.length / 2), torch.full_like(t, other / 2)
        grown = torch.sinh(self.length / 2 * fraction) / torch.sinh(whole)
        return torch.sqrt(grown * (torch.cosh(end) / torch.cosh(self._z(t) / 2)))

    def _signal_loss(self, t: Tensor) -> Tensor:
        """-d alpha^2 / dt."""
        scale = math.cosh(self.first / 2) * math.cosh(self.last / 2) * self.length / self.span
        return scale / torch.cosh(self._z(t) / 2) ** 2
