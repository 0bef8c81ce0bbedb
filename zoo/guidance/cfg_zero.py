"""CFG-Zero*: Fan et al. 2025 (2503.18886), eq. 7 and algorithm 1.

The unconditional velocity is scaled to fit the conditional one best, s = <v_cond, v_uncond> / |v_uncond|^2, and
guided from there, s v_uncond + scale (v_cond - s v_uncond). In the first steps, where a trained flow is worse than
none, the velocity is zero and the network is not asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction
from vidiff.diffusion.guidance import Evaluate, Given, Guidance, check_space, chosen
from vidiff.registry import GUIDANCE
from vidiff.types import Fraction, NonNegative


@GUIDANCE.register("cfg_zero", tiny=dict(scale=2.0), parts={"space": "prediction"})
class CfgZero(Guidance):
    """cfg with the best scale of the unconditional velocity, and no velocity at all while t > 1 - `zero_init`.

    The paper zeroes the first steps by number; by time it is the same share of the way for any number of steps and
    needs no memory (0.04: the first of up to 25 equal steps; 0 is off).
    """

    def __init__(self, scale: NonNegative = 4.0, zero_init: Fraction = 0.04, space: Prediction | str = "velocity"):
        self.scale, self.zero_init, self.space = scale, zero_init, space
        self.needs_uncond, self.silent = scale != 1, zero_init > 0

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        def guided(x: Tensor, t: Tensor) -> Estimate:
            if self.scale == 1:
                return evaluate(x, t, [given.cond])[0]
            beliefs = evaluate(x, t, [given.cond, given.uncond])
            cond, uncond = (finite(self.space.ask(given.path, e, t)) for e in beliefs)
            return self.space.solve(given.path, x, torch.lerp(fitted(uncond, cond), cond, self.scale), t)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            early = t > 1 - self.zero_init
            if not early.any():
                return guided(x, t)
            still = self.space.solve(given.path, x, torch.zeros_like(x), t)
            return still if early.all() else chosen(early, still, guided(x, t))

        return estimate

    def check(self, model) -> None:
        """Raises ValueError where the space tells nothing at the first time."""
        check_space(self.space, model.objective.path, model.objective.interval)


def finite(y: Tensor) -> Tensor:
    """y without what is infinite: velocities of some paths are where x_t is clean already, and nothing is asked."""
    return torch.where(y.isfinite(), y, torch.zeros_like(y))


def fitted(one: Tensor, other: Tensor) -> Tensor:
    """The multiple of `one` that is closest to `other`, for each sample; one itself where it is zero."""
    dims = tuple(range(1, one.ndim))
    square = (one * one).sum(dims, keepdim=True)
    scale = torch.where(square > 0, (one * other).sum(dims, keepdim=True) / square, torch.ones_like(square))
    return scale * one
