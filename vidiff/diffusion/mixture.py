"""What is to be believed when the data are a mixture of Gaussians: the perfect network, in closed form.

With x_t = A x0 + Sigma noise (A, Sigma diagonal) and component k = N(mu_k, S_k), C_k = A S_k A + Sigma^2:

    r_k ~ w_k N(x_t; A mu_k, C_k)
    E[x0|x_t]    = sum r_k (mu_k + S_k A C_k^-1 (x_t - A mu_k))
    E[noise|x_t] = sum r_k Sigma C_k^-1 (x_t - A mu_k)
    Cov[x0|x_t]  = sum r_k (S_k - S_k A C_k^-1 A S_k + d_k d_k'),   d_k = E[x0|x_t,k] - E[x0|x_t]

in the eigenbasis of each S_k where all of x has one time, by Cholesky where frames have their own. The mean square
error of the perfect network is the trace of that covariance, and no network has a smaller one.

Axes: K components, D elements of a latent, B batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction
from vidiff.diffusion.path import Path
from vidiff.random import generator


class Posterior(NamedTuple):
    """The means of x0 and noise given x_t, and the variance of every element of x0, (B,D) each."""

    x0: Tensor
    noise: Tensor
    variance: Tensor


class Mixture:
    """Gaussians with weights (K,), means (K,D) and covariances (K,D,D), in float64.

    `classes` (K,) says which label the draws of a component have.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, classes: Tensor | None = None):
        self.weights, self.means, self.covariances = weights / weights.sum(), means, covariances
        self.classes = torch.zeros(len(weights), dtype=torch.long) if classes is None else classes
        eigenvalues, self.axes = torch.linalg.eigh(covariances)  # (K,D), (K,D,D)
        self.eigenvalues = eigenvalues.clamp(min=0)

    @property
    def mean(self) -> Tensor:
        """(D,)"""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """(D,D)"""
        apart = self.means - self.mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return within + torch.einsum("k,ki,kj->ij", self.weights, apart, apart)

    def of_class(self, label: int) -> Mixture:
        """The law of the draws with this label."""
        mine = self.classes == label
        return Mixture(self.weights[mine], self.means[mine], self.covariances[mine], self.classes[mine])

    def permuted(self, order: Tensor) -> Mixture:
        """The law of x[order], order (D,)."""
        moved = self.covariances[:, order][:, :, order]
        return Mixture(self.weights, self.means[:, order], moved, self.classes)

    def to(self, device: torch.device | str) -> Mixture:
        """The same law on another device."""
        moved = object.__new__(Mixture)
        moved.__dict__ = {name: value.to(device) for name, value in vars(self).items()}
        return moved

    def draw(self, g: torch.Generator, num: int) -> tuple[Tensor, Tensor]:
        """`num` draws (num,D) and the components they are of (num,)."""
        k = torch.multinomial(self.weights, num, replacement=True, generator=g)
        z = torch.randn(num, self.means.shape[1], generator=g, dtype=torch.float64)
        return self.means[k] + torch.einsum("bij,bj->bi", self.axes[k], self.eigenvalues[k].sqrt() * z), k

    def sample(self, num: int, seed: int) -> Tensor:
        """(num,D) draws, a function of the seed."""
        return self.draw(generator(seed, "mixture"), num)[0]

    def believe(self, x: Tensor, alpha: Tensor, sigma: Tensor, prior: Tensor | None = None) -> Posterior:
        """x (B,D); alpha, sigma (B,), or (B,D) where elements have times of their own; prior (B,K) for the weights."""
        prior = self.weights if prior is None else prior
        told = self._alike(x, alpha, sigma) if alpha.ndim == 1 else self._apart(x, alpha, sigma)
        x0, noise, within, log_density = told
        r = torch.softmax(prior.log() + log_density, dim=1)[..., None]
        mean = (r * x0).sum(1)
        return Posterior(mean, (r * noise).sum(1), (r * (within + (x0 - mean[:, None]) ** 2)).sum(1))

    def _alike(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each component: x0, noise, variances (B,K,D), log N(x_t; ...) (B,K) up to a constant. Times (B,)."""
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        y = torch.einsum("kij,bki->bkj", self.axes, x[:, None] - alpha * self.means)  # eigenbasis
        c = alpha**2 * self.eigenvalues + sigma**2
        x0 = self.means + torch.einsum("kij,bkj->bki", self.axes, alpha * self.eigenvalues / c * y)
        noise = torch.einsum("kij,bkj->bki", self.axes, sigma / c * y)
        within = torch.einsum("kij,bkj->bki", self.axes**2, self.eigenvalues * sigma**2 / c)
        return x0, noise, within, -(c.log() + y**2 / c).sum(-1) / 2

    def _apart(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_alike` for times that differ between elements, (B,D)."""
        a, s = alpha[:, None], sigma[:, None]  # (B,1,D)
        y = x[:, None] - a * self.means
        root = torch.linalg.cholesky(a[..., None] * self.covariances * a[..., None, :] + torch.diag_embed(s**2))
        whitened = torch.linalg.solve_triangular(root, y[..., None], upper=False)
        solved = torch.linalg.solve_triangular(root.mT, whitened, upper=True)[..., 0]
        seen = torch.linalg.solve_triangular(root, a[..., None] * self.covariances, upper=False)  # L^-1 A S
        x0 = self.means + torch.einsum("kij,bkj->bki", self.covariances, a * solved)
        within = self.covariances.diagonal(dim1=-2, dim2=-1) - (seen**2).sum(-2)
        log_root = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return x0, s * solved, within, -(whitened**2).sum((-1, -2)) / 2 - log_root

    def posterior(self, path: Path, x: Tensor, t: Tensor, prior: Tensor | None = None) -> Posterior:
        """What is known of x0 and noise at x_t on a path, shaped like x: x (B,...), t (B,); or (B,c,t,h,w), (B,t)."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        if t.ndim == 2:
            alpha, sigma = (v[:, None, :, None, None].expand(x.shape).flatten(1) for v in (alpha, sigma))
        found = self.believe(x.flatten(1), alpha, sigma, prior)
        return Posterior(*(part.reshape(x.shape) for part in found))

    def estimate(self, path: Path, prior: Tensor | None = None) -> EstimateFn:
        """The perfect estimate on a path: x (B,...), t (B,); or x (B,c,t,h,w), t (B,t)."""

        def exact(x: Tensor, t: Tensor) -> Estimate:
            found = self.posterior(path, x, t, prior)
            return Estimate(found.x0, found.noise)

        return exact


def time_of_label(prediction: Prediction, path: Path, label: Tensor) -> Tensor:
    """The inverse of `prediction.label`, which ascends in t, by bisection."""
    low, high = torch.zeros_like(label), torch.ones_like(label)
    for _ in range(60):
        middle = (low + high) / 2
        later = prediction.label(path, middle) < label
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2
