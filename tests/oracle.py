"""Exact denoisers for tests: vidiff.diffusion.mixture, checked in tests/diffusion/test_oracle.py, as networks answer."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion import mixture
from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction
from vidiff.diffusion.mixture import time_of_label
from vidiff.diffusion.objective import Net
from vidiff.diffusion.path import Path, expand
from vidiff.random import generator


class Mixture(mixture.Mixture):
    """A mixture that answers as a network would."""

    def through(self, prediction: Prediction, path: Path) -> EstimateFn:
        """The perfect estimate as a network of this prediction would give it: asked, then solved."""
        exact = self.estimate(path)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            return prediction.solve(path, x, prediction.ask(path, exact(x, t), t), t)

        return estimate

    def net(self, prediction: Prediction, path: Path) -> Net:
        """A perfect network: it reads t and x_t from its label and its input, as a real one must."""
        exact = self.estimate(path)

        def net(x: Tensor, label: Tensor, cond: object) -> Tensor:
            t = time_of_label(prediction, path, label)
            x_t = x / expand(prediction.input_scale(path, t), x)
            return prediction.ask(path, exact(x_t, t), t)

        return net


def three(dim: int = 2) -> Mixture:
    """Three correlated Gaussians in `dim` dimensions: unit variance on average, a mean, nothing symmetric."""
    g = generator(0, "three", dim)
    means = torch.randn(3, dim, generator=g, dtype=torch.float64)
    roots = 0.35 * torch.randn(3, dim, dim, generator=g, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.02 * torch.eye(dim, dtype=torch.float64)
    raw = Mixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances)
    variance = raw.covariance.trace() / dim
    return Mixture(raw.weights, means / variance.sqrt(), covariances / variance)


def gaussian(mean: list[float], variances: list[float]) -> Mixture:
    """One Gaussian with independent coordinates."""
    m, v = (torch.tensor(a, dtype=torch.float64) for a in (mean, variances))
    return Mixture(m.new_ones(1), m[None], torch.diag(v)[None])
