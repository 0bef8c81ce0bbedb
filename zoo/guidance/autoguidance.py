"""Guidance by a bad version of the model: Karras et al. 2024 (2406.02507), eq. 3.

    scale D + (1 - scale) D_bad

The bad one is smaller, trained for less time, or both: it makes the same errors, only stronger.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Around, Evaluate, Given, Guidance, added, overheard
from vidiff.registry import GUIDANCE
from vidiff.types import Load, NonNegative, Run


@GUIDANCE.register("autoguidance", tiny=dict(weak="runs/weaker", scale=2.0), parts={"guidance": "guidance"})
class Autoguidance(Around):
    """guidance + (scale - 1) (cond - weak): away from what another run, `weak`, believes of the same condition.

    Another network, so a call of its own in every step; it may have another backbone, objective and path, not
    another tokenizer. Scale 1 asks it nothing.
    """

    def __init__(self, weak: Run, scale: NonNegative = 2.0, guidance: Guidance | str = "none", *, load: Load):
        """Raises ValueError when the run is not there or has other latents, classes or conditions."""
        super().__init__(guidance)
        self.weak, self.scale = load(weak), scale

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        if self.scale == 1:
            return self.guidance(evaluate, given)
        inner = overheard(self.guidance, evaluate, given, given.cond)
        weak = self.weak.estimator(given.cond.cond)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            believed, heard = inner(x, t)
            return added(believed, (self.scale - 1, heard[0], weak(x, t))) if heard else believed

        return estimate
