"""Classifier-free guidance: Ho & Salimans 2022 (2207.12598), eq. 6, in the convention where scale 1 is no guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Evaluate, Given, Guidance
from vidiff.registry import GUIDANCE
from vidiff.types import NonNegative


@GUIDANCE.register("cfg", tiny=dict(scale=2.0))
class Cfg(Guidance):
    """uncond + scale (cond - uncond), on every channel, in one batched call.

    x0 and noise are guided alike, so it is the same in the space of every prediction. Scale 1 evaluates the
    conditional and scale 0 the unconditional belief alone (same bits, half the cost).
    """

    def __init__(self, scale: NonNegative = 4.0):
        self.scale = scale
        self.needs_uncond = scale != 1

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        def estimate(x: Tensor, t: Tensor) -> Estimate:
            if self.scale in (0, 1):
                return evaluate(x, t, [given.cond if self.scale == 1 else given.uncond])[0]
            with_it, without = evaluate(x, t, [given.cond, given.uncond])
            return Estimate(*(torch.lerp(u, c, self.scale) for c, u in zip(with_it, without, strict=True)))

        return estimate
