"""The conditional model as it is."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Evaluate, Given, Guidance
from vidiff.registry import GUIDANCE


@GUIDANCE.register("none")
class Unguided(Guidance):
    """One evaluation with the condition."""

    needs_uncond = False

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        def estimate(x: Tensor, t: Tensor) -> Estimate:
            return evaluate(x, t, [given.cond])[0]

        return estimate
