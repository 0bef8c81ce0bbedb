"""Learned uncertainty: Karras et al. 2024 (EDM2, 2312.02696); after Kendall et al. 2018 (1705.07115).

    loss = w(t) |y - y_hat|^2 / exp(u(logsnr)) + u(logsnr)

u learns the log of the weighted loss, so every noise level pulls equally hard however its loss develops.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import LABEL_LIMIT, Path
from vidiff.diffusion.weighting import Space, Weighting
from vidiff.random import generator
from vidiff.registry import WEIGHTINGS
from vidiff.types import Count


@WEIGHTINGS.register("uncertainty", tiny=dict(channels=8), parts={"weighting": "weighting"})
class Uncertainty(nn.Module, Weighting):
    """Another weighting over exp(u), plus u: u is linear in `channels` random Fourier features of log(sigma/alpha)/4.

    u starts at 0, so training starts with the other weighting. Its parameters are trained, averaged and saved with
    the network's; sampling does not ask for them. The loss may become negative.
    """

    def __init__(self, weighting: Weighting | str = "edm", channels: Count = 128):
        super().__init__()
        self.weighting = weighting
        dice = generator(0, "uncertainty")
        waves = torch.randn(channels, generator=dice, device="cpu"), torch.rand(channels, generator=dice, device="cpu")
        self.register_buffer("frequencies", 2 * math.pi * waves[0], persistent=False)
        self.register_buffer("phases", 2 * math.pi * waves[1], persistent=False)
        self.slope, self.level = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(()))

    @property
    def space(self) -> Space:
        """That of the weighting it divides."""
        return self.weighting.space

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return self.weighting.weight(path, t) / self.uncertainty(path, t).detach().exp()

    def __call__(self, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
        """The other weighting's weight, as it now is, over exp(u)."""
        return self.weighting(path, prediction, t) / self.uncertainty(path, t).detach().exp()

    def loss(self, path: Path, prediction: Prediction, t: Tensor, error: Tensor) -> Tensor:
        """w error / exp(u) + u, shaped like t."""
        u = self.uncertainty(path, t).to(error.dtype)
        return self.weighting.loss(path, prediction, t, error) / u.exp() + u

    def uncertainty(self, path: Path, t: Tensor) -> Tensor:
        """u, shaped like t, in float32 at least."""
        label = (-path.logsnr(t) / 8).clamp(-LABEL_LIMIT, LABEL_LIMIT).to(self.slope.dtype)
        waves = math.sqrt(2) * torch.cos(label[..., None] * self.frequencies + self.phases)
        return (waves * self.slope).sum(-1) + self.level  # no product of matrices: AMP leaves it alone
