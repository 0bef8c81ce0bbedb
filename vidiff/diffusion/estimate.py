"""One solve for every prediction.

The network is asked for y = p x0 + q noise, and x_t = alpha x0 + sigma noise is known:
two equations, two unknowns. With D = alpha q - sigma p,

    x0 = (q x_t - sigma y) / D,    noise = (alpha y - p x_t) / D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vidiff.diffusion.path import Path, expand


class Estimate(NamedTuple):
    """What a network believes: the clean latent and the noise, shaped like x_t."""

    x0: Tensor
    noise: Tensor
    share = None
    """(B,...) in [0, 1] where the network learned variances: its place between the logs of beta~ (0) and beta (1)."""

    def believing(self, x0: Tensor, noise: Tensor) -> Estimate:
        """Another x0 and noise with the same variances."""
        return Estimate(x0, noise).spread(self.share)

    def spread(self, share: Tensor | None) -> Estimate:
        """The same x0 and noise with these variances (Nichol & Dhariwal 2021 (2102.09672), eq. 15)."""
        return self if share is None else _Spread(*self, share)


class _Spread(Estimate):
    def __new__(cls, x0: Tensor, noise: Tensor, share: Tensor) -> _Spread:
        self = super().__new__(cls, x0, noise)
        self.share = share
        return self


EstimateFn = Callable[[Tensor, Tensor], Estimate]
"""(x_t (B,...), t (B,)) -> Estimate."""


class Aiming:
    """An estimate (x_t, t) that can be told where the step ends: `toward(s)` is one whose place at s is a jump."""

    def __init__(self, estimate: Callable[[Tensor, Tensor, Tensor | None], Estimate]):
        self.estimate = estimate

    def __call__(self, x: Tensor, t: Tensor) -> Estimate:
        """x_t (B,...), t (B,): the belief at t."""
        return self.estimate(x, t, None)

    def toward(self, s: Tensor) -> EstimateFn:
        """The estimate for a step that ends at s (B,)."""
        return lambda x, t: self.estimate(x, t, s)


def toward(estimate: EstimateFn, s: Tensor) -> EstimateFn:
    """The estimate for a step that ends at s, of a model that can be told; any other believes what it believes."""
    return estimate.toward(s) if isinstance(estimate, Aiming) else estimate


class Prediction:
    """What the network is asked for: the pair (p, q) of y = p x0 + q noise, as functions of t."""

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """p(t), q(t), shaped like t."""
        raise NotImplementedError

    def input_scale(self, path: Path, t: Tensor) -> Tensor:
        """c_in: what x_t is multiplied by before it enters the network (1 unless preconditioned)."""
        return t.new_ones(t.shape)

    def label(self, path: Path, t: Tensor) -> Tensor:
        """The time as the network is told it."""
        return path.label(t)

    def determinant(self, path: Path, t: Tensor) -> Tensor:
        """D = alpha q - sigma p: zero where the prediction says nothing about the unknowns."""
        p, q = self.pair(path, t)
        return path.alpha(t) * q - path.sigma(t) * p

    def target(self, path: Path, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """y = p x0 + q noise, shaped like x0."""
        p, q = self.pair(path, t)
        return expand(p, x0) * x0 + expand(q, x0) * noise

    def solve(self, path: Path, x_t: Tensor, y: Tensor, t: Tensor) -> Estimate:
        """The (x0, noise) for which the network's output y is exact.

        Where sigma = 0, x_t is x0 whatever y says; a y that cannot tell the noise there
        (x0 itself, or a score of infinite scale) leaves it at its mean, 0.
        """
        p, q = self.pair(path, t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        d = alpha * q - sigma * p
        blind = (sigma == 0) & ((d == 0) | ~torch.isfinite(d))
        zero, inverse = torch.zeros_like(alpha), 1 / d
        of_x = torch.where(blind, 1 / alpha, q * inverse), torch.where(blind, zero, -p * inverse)
        of_y = torch.where(blind, zero, -sigma * inverse), torch.where(blind, zero, alpha * inverse)
        x0 = expand(of_x[0], x_t) * x_t + expand(of_y[0], x_t) * y
        noise = expand(of_x[1], x_t) * x_t + expand(of_y[1], x_t) * y
        return Estimate(x0, noise)

    def ask(self, path: Path, estimate: Estimate, t: Tensor) -> Tensor:
        """The inverse of `solve`: the output y of a network that believes `estimate`."""
        return self.target(path, estimate.x0, estimate.noise, t)


def velocity(path: Path, estimate: Estimate, t: Tensor) -> Tensor:
    """dx/dt of the probability-flow ODE: alpha' x0 + sigma' noise (Albergo et al. 2023 (2303.08797))."""
    x0, noise = estimate
    return expand(path.alpha_dot(t), x0) * x0 + expand(path.sigma_dot(t), x0) * noise


def through(path: Path, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor) -> Estimate:
    """The x0 and noise of the curve alpha x0 + sigma noise through x_t at t and x_s at s, another time.

    x0 = (sigma_s x_t - sigma_t x_s) / D, noise = (alpha_t x_s - alpha_s x_t) / D with
    D = alpha_t sigma_s - sigma_t alpha_s;
    Salimans & Ho 2022 (2202.00512), app. G, call this x0 the target of two steps in one.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    d = alpha_t * sigma_s - sigma_t * alpha_s
    x0 = expand(sigma_s / d, x_t) * x_t - expand(sigma_t / d, x_t) * x_s
    noise = expand(alpha_t / d, x_t) * x_s - expand(alpha_s / d, x_t) * x_t
    return Estimate(x0, noise)


def place(path: Path, estimate: Estimate, t: Tensor) -> Tensor:
    """Where this estimate lies at time t: alpha(t) x0 + sigma(t) noise."""
    return path.point(estimate.x0, estimate.noise, t)
