"""Adaptive projected guidance: Sadat et al. 2024 (2410.02416), sec. 4 and algorithm 1, on the believed x0.

d  = x0_cond - x0_uncond + momentum d_before                  reverse momentum: momentum < 0
d  = d min(1, threshold / |d|)
d  = d_orthogonal + eta d_parallel                            to x0_cond; the parallel part oversaturates
x0 = x0_cond + (scale - 1) d
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Evaluate, Given, Guidance, revised
from vidiff.diffusion.path import expand
from vidiff.registry import GUIDANCE
from vidiff.types import NonNegative, Range

SAME = 1e-5
"""An x_t and a time that change by less are the same again, rounded on another way."""


class Momentum:
    """The running sum of one sampling run. It starts anew where t is as high as ever: at the start of a descent,
    so windows of a roll-out, each drawn from noise, share nothing.

    A sample that is asked about the x_t and t of the call before, because others of its batch are still on their way
    (`dopri5`), gets the same answer: its sum does not depend on its neighbours.
    """

    def __init__(self, rate: float):
        self.rate, self.sum, self.highest, self.before = rate, None, None, ()

    def __call__(self, difference: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """(B,...) of x_t and t -> this difference plus `rate` times the sum before."""
        if self.sum is None or self.sum.shape != difference.shape or bool((t >= self.highest).all()):
            self.highest, self.sum = t, difference
        else:
            moved = change(x, self.before[0]) + change(t[:, None], self.before[1]) > SAME
            self.sum = torch.where(expand(moved, x).bool(), difference + self.rate * self.sum, self.sum)
        self.before = x, t[:, None]
        return self.sum


def change(new: Tensor, old: Tensor) -> Tensor:
    """The largest change in a sample (B,...), by its largest element -> (B,)."""
    return (new - old).flatten(1).abs().amax(1) / new.flatten(1).abs().amax(1).clamp(min=SAME)


@GUIDANCE.register("apg", tiny=dict(scale=2.0, threshold=5.0))
class Apg(Guidance):
    """Guidance whose part parallel to the conditional belief is damped, its norm bounded, its direction slowed.

    `threshold` bounds the norm over a whole sample, as published ones do; 0 is no bound. With eta 1, threshold 0
    and momentum 0 it is cfg. Momentum counts evaluations, so samplers of more than one a step see more of it.
    """

    def __init__(
        self,
        scale: NonNegative = 4.0,
        eta: NonNegative = 0.0,
        threshold: NonNegative = 0.0,
        momentum: Annotated[float, Range(min=-1.0, max=1.0)] = -0.5,
    ):
        self.scale, self.eta, self.threshold, self.momentum = scale, eta, threshold, momentum
        self.needs_uncond = scale != 1

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        momentum = Momentum(self.momentum)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            if self.scale == 1:
                return evaluate(x, t, [given.cond])[0]
            cond, uncond = evaluate(x, t, [given.cond, given.uncond])
            d = momentum(cond.x0 - uncond.x0, x, t)
            if self.threshold:
                d = d * (self.threshold / norm(d)).clamp(max=1.0)
            d = d + (self.eta - 1) * parallel(d, cond.x0)
            return revised(given.path, cond, cond.x0 + (self.scale - 1) * d, t)

        return estimate


def norm(d: Tensor) -> Tensor:
    """The Euclidean norm of each sample: (B,...) -> (B,1,...)."""
    return d.flatten(1).norm(dim=1).reshape(-1, *[1] * (d.ndim - 1))


def parallel(d: Tensor, along: Tensor) -> Tensor:
    """The part of d that is parallel to `along`, sample by sample; nothing is parallel to zero."""
    unit = torch.nan_to_num(along / norm(along))
    return (d * unit).sum(dim=tuple(range(1, d.ndim)), keepdim=True) * unit
