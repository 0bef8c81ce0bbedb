"""Sigmoid weighting: Kingma & Gao 2023 (2303.00848); Hoogeboom et al. 2024 (2410.19324)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("sigmoid")
class Sigmoid(Weighting):
    """-logsnr'/2 sigmoid(bias - logsnr) |noise - noise_hat|^2: the likelihood bound without low noise.

    -logsnr' makes it the same integral over noise levels on every path, with uniform times. A lower
    `bias` takes more away from low noise, as larger inputs want.
    """

    space = "noise"

    def __init__(self, bias: float = 0.0):
        self.bias = bias

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return -path.logsnr_dot(t) / 2 * torch.sigmoid(self.bias - path.logsnr(t))
