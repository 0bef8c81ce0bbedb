"""The likelihood of data under the probability-flow ODE: Song et al. 2021 (2011.13456), sec. 4.3 and app. D.2.

    log p(x0) = log N(x_T; 0, n(T)) + integral of div(dx/dt) over t from the data to T,    n = alpha^2 + sigma^2

along the ODE that starts at x0. The divergence is the trace of the Jacobian, or e . J e averaged over probes e of
independent signs (Hutchinson 1990; Grathwohl et al. 2019 (1810.01367)), which has it as its mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidiff.diffusion.adaptive import Slope, dopri5
from vidiff.diffusion.estimate import EstimateFn, velocity
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import finite_slope
from vidiff.diffusion.times import times_on
from vidiff.random import Random

Solver = Callable[[Slope, Tensor, Tensor, Tensor], Tensor]
"""(slope, state (B,...), start (), end ()) -> state (B,...): an integrator."""

FIRST = 1e-5
"""Where the slope at t = 0 is infinite the ODE begins here, as in Song et al."""


def log_likelihood(
    estimate: EstimateFn, x0: Tensor, path: Path, random: Random | None = None, **settings: Any
) -> Tensor:
    """x0 (B,...) -> log p(x0) (B,), in nats; one density for all elements of a sample; settings are those of `carried`.

    x_T is taken to be N(0, alpha^2 + sigma^2), exact where alpha is 0.
    """
    x, gathered, variance = carried(estimate, x0, path, random, **settings)
    return log_normal(x, variance) + gathered


def log_normal(x: Tensor, variance: Tensor) -> Tensor:
    """log N(x; 0, variance) of each sample of x (B,...), in nats (B,)."""
    x = x.flatten(1)
    return -(x**2 / variance).sum(1) / 2 - x.shape[1] / 2 * torch.log(2 * math.pi * variance)


def carried(
    estimate: EstimateFn,
    x0: Tensor,
    path: Path,
    random: Random | None = None,
    *,
    probes: int = 1,
    first: float | None = None,
    last: float = 1.0,
    solver: Solver | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Along the ODE from x0 (B,...): x_T (B,D), the divergence gathered (B,), and the variance () x_T should have.

    `random` draws the probes; None computes the divergence exactly, one backward pass per element. `first` and `last`
    are the ends in time: `first` None is 0, or FIRST where the slope is infinite at 0.
    """
    signs = [] if random is None else [2.0 * (random.uniform(x0.shape) < 0.5).to(x0) - 1 for _ in range(probes)]
    ends = times_on(x0.device, torch.tensor([0.0 if first is None else first, last], dtype=torch.float64))
    if first is None and not finite_slope(path, ends)[0]:
        ends[0] = FIRST

    def slope(state: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = state[:, :-1].detach().reshape(x0.shape).requires_grad_()
            v = velocity(path, estimate(x, t), t)
            divergence = hutchinson(v, x, signs) if signs else trace(v, x)
        return torch.cat([v.detach().flatten(1), divergence[:, None]], 1)

    state = torch.cat([x0.flatten(1), x0.new_zeros(len(x0), 1)], 1)
    solver = solver or partial(dopri5, rtol=rtol, atol=atol, limit=100_000)
    state = solver(slope, state, ends[0], ends[1])
    x, gathered = state[:, :-1], state[:, -1]
    return x, gathered, path.norm(ends[1]) ** 2


def trace(v: Tensor, x: Tensor) -> Tensor:
    """The trace of dv/dx of each sample (B,), one backward pass per element."""
    flat, num = v.flatten(1), x[0].numel()
    rows = (torch.autograd.grad(flat[:, i].sum(), x, retain_graph=i + 1 < num)[0].flatten(1)[:, i] for i in range(num))
    return sum(rows, v.new_zeros(len(v)))


def hutchinson(v: Tensor, x: Tensor, signs: list[Tensor]) -> Tensor:
    """e . (dv/dx) e of each sample (B,), averaged over the probes."""
    products = []
    for i, e in enumerate(signs):
        pulled = torch.autograd.grad((v * e).sum(), x, retain_graph=i + 1 < len(signs))[0]
        products.append((pulled * e).flatten(1).sum(1))
    return torch.stack(products).mean(0)
