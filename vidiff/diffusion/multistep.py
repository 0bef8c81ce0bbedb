"""Multistep methods: what the steps before say about the next one.

Where an end of a step has infinite lambda = log(alpha / sigma) (alpha = 0 or sigma = 0) the expansions in lambda do
not exist, and samplers take a step of first order, which does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Levels = tuple[Tensor, Tensor, Tensor]
"""alpha, sigma and lambda of all times, (S+1,) each."""


def order_of(i: int, lam: Tensor, order: int, lower_order_final: bool) -> int:
    """The order of step i: as far as the history goes (its lambda must be finite), first order to sigma = 0.

    `lower_order_final` ends with the orders ..., 3, 2, 1 (Lu et al. 2022 (2211.01095), sec. 3.4; below 15 steps).
    """
    left = len(lam) - 1 - i
    if not (lam[i].isfinite() and lam[i + 1].isfinite()) or lam[i] == lam[i + 1]:
        return 1
    known = int(lam[: i + 1].flip(0).isfinite().cumprod(0).sum())
    return min(order, known, left if lower_order_final else order)


def data_step(
    x: Tensor,
    x0s: Sequence[Tensor],
    levels: Levels,
    i: int,
    order: int,
    eta: float = 0.0,
    midpoint: bool = False,
    exact: bool = True,
    half: float = 0.5,
) -> Tensor:  # fmt: skip
    """Step i of DPM-Solver++: x0 as a polynomial in lambda through x0s (newest first), integrated exactly.

    With h = lambda_s - lambda_t and H = (1 + eta) h, of the reverse SDE of strength eta (Lu et al. 2022 (2211.01095);
    its fresh noise has deviation sigma_s sqrt(1 - exp(-2 eta h))):

        x_s = sigma_s/sigma_t e^(-eta h) x + alpha_s ((1 - e^-H) x0 + phi2 x0' h - phi3 x0'' h^2)

    `midpoint` has (1 - e^-H) / 2 for phi2 (order 2 only). Not `exact` halves the last term, as the published codes do:
    their divided difference stands for x0'' h^2, of which it is one half, so that the order remains 2. `half` is that
    of phi3 = phi2/H - 1/2; diffusers' SDE solvers have - 1/2 for it.
    """
    alpha, sigma, lam = levels
    h = lam[i + 1] - lam[i]
    wide = (1 + eta) * h
    gained = -torch.expm1(-wide)
    decay = torch.exp(-eta * h) if eta else 1.0
    x = sigma[i + 1] / sigma[i] * decay * x + alpha[i + 1] * gained * x0s[0]
    if order == 1:
        return x
    r0 = (lam[i] - lam[i - 1]) / h
    slope, phi2 = (x0s[0] - x0s[1]) / r0, 1 - gained / wide
    if order == 2:
        return x + alpha[i + 1] * (gained / 2 if midpoint else phi2) * slope
    r1 = (lam[i - 1] - lam[i - 2]) / h
    bend = (slope - (x0s[1] - x0s[2]) / r1) / (r0 + r1)
    return x + alpha[i + 1] * (phi2 * (slope + r0 * bend) - (phi2 / wide - half) * (2 if exact else 1) * bend)


def noise_step(
    x: Tensor,
    noises: Sequence[Tensor],
    levels: Levels,
    i: int,
    order: int,
    stochastic: bool = False,
    midpoint: bool = False,
    exact: bool = True,
) -> Tensor:  # fmt: skip
    """Step i of DPM-Solver: the noise as a polynomial in lambda through noises (newest first), integrated exactly.

    With h = lambda_s - lambda_t, p2 = (e^h - 1)/h - 1 and p3 = p2/h - 1/2 (Lu et al. 2022 (2206.00927)):

        x_s = alpha_s/alpha_t x - sigma_s ((e^h - 1) noise + p2 noise' h + p3 noise'' h^2)

    `stochastic` has the bracket twice; its fresh noise is of deviation sigma_s sqrt(e^(2h) - 1). `midpoint` and
    `exact` as of `data_step`.
    """
    alpha, sigma, lam = levels
    h, pull = lam[i + 1] - lam[i], sigma[i + 1] * (2 if stochastic else 1)
    grown = torch.expm1(h)
    x = alpha[i + 1] / alpha[i] * x - pull * grown * noises[0]
    if order == 1:
        return x
    r0 = (lam[i] - lam[i - 1]) / h
    slope, p2 = (noises[0] - noises[1]) / r0, grown / h - 1
    if order == 2:
        return x - pull * (grown / 2 if midpoint else p2) * slope
    r1 = (lam[i - 1] - lam[i - 2]) / h
    bend = (slope - (noises[1] - noises[2]) / r1) / (r0 + r1)
    return x - pull * (p2 * (slope + r0 * bend) + (p2 / h - 0.5) * (2 if exact else 1) * bend)


def fresh_std(levels: Levels, i: int, eta: float) -> Tensor:
    """The noise that step i of the reverse SDE of strength eta adds: sigma_s sqrt(1 - e^(-2 eta h))."""
    _, sigma, lam = levels
    return sigma[i + 1] * torch.sqrt(-torch.expm1(-2 * eta * (lam[i + 1] - lam[i])))


def interpolating_weights(nodes: Tensor, moments: Tensor) -> Tensor:
    """c (k,) with sum_j c_j nodes_j^n = moments_n for n < k: the integrals of the nodes' Lagrange polynomials."""
    powers = nodes[None] ** torch.arange(len(nodes), dtype=nodes.dtype, device=nodes.device)[:, None]
    return torch.linalg.solve(powers, moments[: len(nodes)])
