"""An exact denoiser: what a perfect network believes when the data are a mixture of Gaussians.

With x_t = alpha x0 + sigma noise and component k = N(mu_k, S_k), C_k = alpha^2 S_k + sigma^2 I:

    r_k ~ w_k N(x; alpha mu_k, C_k)
    E[x0|x]    = sum r_k (mu_k + alpha S_k C_k^-1 (x - alpha mu_k))
    E[noise|x] = sum r_k sigma C_k^-1 (x - alpha mu_k)

in the eigenbasis of each S_k, in float64. Data of any shape (B,...) are flattened to (B,D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction
from vidiff.diffusion.objective import Net
from vidiff.diffusion.path import Path, expand
from vidiff.random import generator


class Mixture:
    """Gaussians with weights (K,), means (K,D) and covariances (K,D,D)."""

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        self.weights, self.means, self.covariances = weights / weights.sum(), means, covariances
        eigenvalues, self.axes = torch.linalg.eigh(covariances)  # (K,D), (K,D,D)
        self.eigenvalues = eigenvalues.clamp(min=0)

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        spread = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + torch.einsum(
            "k,ki,kj->ij", self.weights, spread, spread
        )

    def sample(self, num: int, seed: int) -> Tensor:
        """(num, D) draws."""
        g = generator(seed, "mixture")
        k = torch.multinomial(self.weights, num, replacement=True, generator=g)
        z = torch.randn(num, self.means.shape[1], generator=g, dtype=torch.float64)
        return self.means[k] + torch.einsum("bij,bj->bi", self.axes[k], self.eigenvalues[k].sqrt() * z)

    def believe(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B,D), alpha sigma (B,) -> E[x0|x] (B,D), E[noise|x] (B,D), the trace of Cov[x0|x] (B,)."""
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        y = torch.einsum("kij,bki->bkj", self.axes, x[:, None] - alpha * self.means)  # (B,K,D), eigenbasis
        c = alpha**2 * self.eigenvalues + sigma**2
        r = torch.softmax(self.weights.log() - (c.log() + y**2 / c).sum(-1) / 2, dim=1)[..., None]
        x0 = self.means + torch.einsum("kij,bkj->bki", self.axes, alpha * self.eigenvalues / c * y)
        noise = torch.einsum("kij,bkj->bki", self.axes, sigma / c * y)
        mean = (r * x0).sum(1)
        within = (self.eigenvalues * sigma**2 / c).sum(-1, keepdim=True)
        trace = (r * (within + (x0**2).sum(-1, keepdim=True))).sum((1, 2)) - (mean**2).sum(-1)
        return mean, (r * noise).sum(1), trace

    def estimate(self, path: Path) -> EstimateFn:
        """The perfect estimate on a path: x (B,...), t (B,)."""

        def exact(x: Tensor, t: Tensor) -> Estimate:
            x0, noise, _ = self.believe(x.flatten(1), path.alpha(t), path.sigma(t))
            return Estimate(x0.reshape(x.shape), noise.reshape(x.shape))

        return exact

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


def time_of_label(prediction: Prediction, path: Path, label: Tensor) -> Tensor:
    """The inverse of `prediction.label`, which ascends in t, by bisection."""
    low, high = torch.zeros_like(label), torch.ones_like(label)
    for _ in range(60):
        middle = (low + high) / 2
        later = prediction.label(path, middle) < label
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2


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
