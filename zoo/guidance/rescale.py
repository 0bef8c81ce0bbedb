"""Guidance at the standard deviation of the conditional belief: Lin et al. 2023 (2305.08891), eq. 14 to 16.

y' = y_guided std(y_cond) / std(y_guided),    amount y' + (1 - amount) y_guided
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction
from vidiff.diffusion.guidance import Around, Evaluate, Given, Guidance, check_space, overheard
from vidiff.registry import GUIDANCE
from vidiff.types import Fraction


@GUIDANCE.register("rescale", tiny=dict(amount=0.5), parts={"guidance": "guidance", "space": "prediction"})
class Rescale(Around):
    """Another guidance, its answer brought back to the spread that the conditional belief has; amount 0 is off.

    Spreads are over all elements of a sample. They depend on what y is: `space` says it, whatever the network
    predicts (v in the paper).
    """

    def __init__(self, guidance: Guidance | str = "cfg", amount: Fraction = 0.7, space: Prediction | str = "v"):
        super().__init__(guidance)
        self.amount, self.space = amount, space

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        if self.amount == 0:
            return self.guidance(evaluate, given)
        inner = overheard(self.guidance, evaluate, given, given.cond)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            guided, heard = inner(x, t)
            if not heard or heard[0] is guided:
                return guided
            y, y_cond = (self.space.ask(given.path, e, t) for e in (guided, *heard))
            narrow = spread(y_cond) / spread(y).clamp(min=torch.finfo(y.dtype).tiny)  # clean data may have no noise
            y = y * (self.amount * narrow + (1 - self.amount))
            return self.space.solve(given.path, x, y, t)

        return estimate

    def check(self, model) -> None:
        """Raises ValueError when the space tells nothing at the first time."""
        super().check(model)
        check_space(self.space, model.objective.path, model.objective.interval)


def spread(y: Tensor) -> Tensor:
    """The standard deviation of each sample: (B,...) -> (B,1,...)."""
    return y.std(dim=tuple(range(1, y.ndim)), keepdim=True)
