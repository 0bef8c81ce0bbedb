"""Paths from data to noise: x_t = alpha(t) x0 + sigma(t) noise, t = 0 clean, t = 1 noise.

A path is four scalar functions of t; everything else follows from them.
Kingma et al. 2021 (2107.00630) for log-SNR, Albergo et al. 2023 (2303.08797) for interpolants.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient per sample (B,) or per frame (B,t), shaped and cast to multiply x.

    x (B,...) takes (B,); x (B,c,t,h,w) takes (B,t) as well. The rank decides, never the
    size, so data whose width happens to equal B cannot be scaled along the wrong axis.
    Raises ValueError when a per-frame coefficient meets data without frames.
    """
    coefficient = coefficient.to(x.dtype)
    if coefficient.ndim == 0:
        return coefficient
    if coefficient.ndim == 1 and coefficient.shape[0] == x.shape[0]:
        return coefficient.reshape(-1, *[1] * (x.ndim - 1))
    if coefficient.ndim == 2 and x.ndim == 5 and coefficient.shape == (x.shape[0], x.shape[2]):
        return coefficient[:, None, :, None, None]
    raise ValueError(f"a coefficient of shape {tuple(coefficient.shape)} does not fit data of shape {tuple(x.shape)}")


LABEL_LIMIT = 2.0
"""Noise levels beyond e^8 = 2981, or below its inverse, look the same to a network: it is told no more than this."""


class Path:
    """alpha, sigma and their derivatives in t in [0,1]; elementwise, any shape, the dtype of t."""

    def alpha(self, t: Tensor) -> Tensor:
        """The share of the data, in [0,1]."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise, >= 0."""
        raise NotImplementedError

    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / d t."""
        raise NotImplementedError

    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / d t."""
        raise NotImplementedError

    def logsnr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), descending in t; +inf where sigma = 0, -inf where alpha = 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def logsnr_dot(self, t: Tensor) -> Tensor:
        """d logsnr / d t, negative."""
        return 2 * (self.alpha_dot(t) / self.alpha(t) - self.sigma_dot(t) / self.sigma(t))

    def norm(self, t: Tensor) -> Tensor:
        """sqrt(alpha^2 + sigma^2): the standard deviation of x_t when the data have unit variance."""
        return torch.hypot(self.alpha(t), self.sigma(t))

    def time(self, logsnr: Tensor) -> Tensor:
        """The t in [0,1] with this log-SNR; beyond the ends, the end. By bisection unless a path knows better."""
        low, high = torch.zeros_like(logsnr), torch.ones_like(logsnr)
        for _ in range(64):
            middle = (low + high) / 2
            cleaner = self.logsnr(middle) > logsnr
            low, high = torch.where(cleaner, middle, low), torch.where(cleaner, high, middle)
        return (low + high) / 2

    def label(self, t: Tensor) -> Tensor:
        """What the network is told of the time, of order one (backbones scale it by 1000 before the sinusoid)."""
        return t

    def point(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) noise; t (B,) or (B,t)."""
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * noise


def level_label(path: Path, t: Tensor) -> Tensor:
    """log(sigma/alpha) / 4, within +-2: the noise level as EDM tells it (Karras et al. 2022 (2206.00364), table 1)."""
    return (-path.logsnr(t) / 8).clamp(-LABEL_LIMIT, LABEL_LIMIT)


class VariancePreserving(Path):
    """A path with alpha^2 + sigma^2 = 1, given by the rate beta(t) of noise: alpha^2 = exp(-B(t)) with B' = beta.

    Song et al. 2021 (2011.13456), the VP-SDE dx = -beta/2 x dt + sqrt(beta) dw, whose mean and variance these are.
    """

    def beta(self, t: Tensor) -> Tensor:
        """The rate, > 0."""
        raise NotImplementedError

    def total_beta(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
        raise NotImplementedError

    def time_of_total(self, total: Tensor) -> Tensor:
        """The inverse of `total_beta`; `total` lies between 0 and B(1)."""
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.total_beta(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.total_beta(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) / 2 * torch.exp(-self.total_beta(t)) / self.sigma(t)

    def logsnr(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.total_beta(t)).log()

    def logsnr_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) / torch.expm1(-self.total_beta(t))

    def time(self, logsnr: Tensor) -> Tensor:
        largest = self.total_beta(torch.ones_like(logsnr))
        total = -logsigmoid(logsnr)  # alpha^2 = sigmoid(logsnr); softplus would round off beyond 20
        return self.time_of_total(torch.minimum(total, largest)).clamp(0, 1)
