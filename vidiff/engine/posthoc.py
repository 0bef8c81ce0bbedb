"""Power-function averages of weights, and any other one of them after the training.

Karras et al. 2024, EDM2 (2312.02696), sec. 3 and app. C. The average of width sigma_rel at step t weighs step s by

    p(s) = (gamma + 1) s^gamma / t^(gamma + 1),    sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))).

Two of them, kept every now and then, span the others: the coefficients x of the average wanted, q, are those of
least squares, min |sum_i x_i p_i - q|^2, from the inner products of profiles alone. Weights move at whole steps
only, and the weight of step s is the integral of p over (s - 1, s]: what holds for profiles holds for averages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidiff.engine.checkpoint import Checkpoints, load
from vidiff.errors import Refused

MOST_ERROR = 0.1
"""The greatest error of a synthesized profile, relative to the one wanted, that is still handed out."""


def exponent(sigma_rel: float) -> float:
    """The gamma of a relative width: the largest root of (g + 2)^2 (g + 3) sigma^2 = g + 1.

    Newton's method from the right, where the cubic is convex and rising.
    """
    g, tau = 1 / sigma_rel, sigma_rel**-2
    for _ in range(50):
        value = ((g + 7) * g + 16 - tau) * g + 12 - tau
        slope = (3 * g + 14) * g + 16 - tau
        new = g - value / slope
        if abs(new - g) <= 1e-15 * abs(g):
            return new
        g = new
    return g


def power_decay(step: int, gamma: float) -> float:
    """The decay (1 - 1/s)^(gamma + 1) that makes the profile: 0 at the first step, a copy of the weights."""
    return (1 - 1 / step) ** (gamma + 1)


def inner_product(t: Tensor, gamma: Tensor, u: Tensor, delta: Tensor) -> Tensor:
    """int p_{gamma,t} p_{delta,u} = (gamma+1)(delta+1)/(gamma+delta+1) (min/max)^(that of the later) / max."""
    later = torch.where(t < u, delta, gamma)
    low, high = torch.minimum(t, u), torch.maximum(t, u)
    return (gamma + 1) * (delta + 1) / (gamma + delta + 1) * (low / high) ** later / high


def coefficients(
    steps: Sequence[float], sigmas: Sequence[float], wanted_steps: Sequence[float], wanted: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """What is kept (n steps and widths), what is wanted (m of them) -> coefficients (n,m), relative errors (m,).

    float64. Coefficients are scaled to a sum of 1, as EDM2's are, so that weights at rest stay what they are.
    The error is that of the profile, |sum_i x_i p_i - q| / |q|.
    """
    t, u = (torch.tensor(list(s), dtype=torch.float64) for s in (steps, wanted_steps))
    g, d = (torch.tensor([exponent(s) for s in side], dtype=torch.float64) for side in (sigmas, wanted))
    gram = inner_product(t[:, None], g[:, None], t, g)
    right = inner_product(t[:, None], g[:, None], u, d)
    norm = inner_product(u, d, u, d)
    x = torch.linalg.solve(gram, right)
    x = x / x.sum(0)
    left = norm - 2 * (x * right).sum(0) + (x * (gram @ x)).sum(0)
    return x, (left.clamp(min=0) / norm).sqrt()


@dataclass(frozen=True)
class Kept:
    """One power-function average that lies on a disk."""

    step: int
    sigma_rel: float
    checkpoint: Path
    group: str

    def tensors(self) -> dict[str, Tensor]:
        """Its weights. Raises Refused when the file is not intact."""
        return load(self.checkpoint, (self.group,)).tensors[self.group]


def snapshots(run: Path) -> Checkpoints:
    """The folder of a run in which power-function averages are kept: none is ever deleted."""
    return Checkpoints(run / "averages", keep=1, keep_every=1)


def synthesize(kept: Sequence[Kept], step: int, sigma_rel: float) -> tuple[dict[str, Tensor], float]:
    """The average of width `sigma_rel` at `step` out of what was kept -> weights by name, relative profile error.

    Raises Refused when nothing was kept, or when what was kept comes no nearer than 10 %.
    """
    if not kept:
        raise Refused("this run kept no power-function averages: train with ema.sigma_rel: [0.05, 0.1].")
    steps, sigmas = [k.step for k in kept], [k.sigma_rel for k in kept]
    x, error = coefficients(steps, sigmas, [step], [sigma_rel])
    if not error.item() <= MOST_ERROR or not math.isfinite(error.item()):
        raise Refused(
            f"posthoc:{sigma_rel:g} at step {step} is out of reach: the {len(kept)} averages kept come no nearer than "
            f"{error.item():.0%}. Ask for a width between {min(sigmas):g} and {max(sigmas):g}, or keep more of them "
            "(ema.snapshot_every)."
        )
    total: dict[str, Tensor] = {}
    for average, share in zip(kept, x[:, 0].tolist(), strict=True):
        for name, tensor in average.tensors().items():
            total[name] = total.get(name, 0.0) + share * tensor.double()
    return total, error.item()
