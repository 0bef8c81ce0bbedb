"""Guidance in a limited interval of noise levels: Kynkäänniemi et al. 2024 (2404.07724), eq. 5.

Guided where sigma_min < sigma / alpha <= sigma_max, the conditional belief elsewhere, which costs one evaluation less.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Around, Evaluate, Given, Guidance, chosen, overheard
from vidiff.registry import GUIDANCE
from vidiff.types import NonNegative


@GUIDANCE.register("interval", tiny=dict(sigma_min=0.2, sigma_max=3.0), parts={"guidance": "guidance"})
class Interval(Around):
    """Another guidance within a window of noise levels sigma / alpha, and none outside.

    Levels are relative to data of unit variance; `sigma_max` null has no upper end. The window is in the level, not
    in the time, so it is the same on every path. Frames with times of their own are guided frame by frame.
    """

    def __init__(
        self,
        guidance: Guidance | str = "cfg",
        sigma_min: NonNegative = 0.28,
        sigma_max: NonNegative | None = 2.9,
    ):
        super().__init__(guidance)
        self.sigma_min, self.sigma_max = sigma_min, float("inf") if sigma_max is None else sigma_max

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        inner = overheard(self.guidance, evaluate, given, given.cond)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            inside = self.inside(given, t)
            if not inside.any():
                return evaluate(x, t, [given.cond])[0]
            guided, heard = inner(x, t)
            return guided if inside.all() else chosen(inside, guided, *(heard or evaluate(x, t, [given.cond])))

        return estimate

    def inside(self, given: Given, t: Tensor) -> Tensor:
        """Whether these times lie in the window, shaped like t."""
        level = given.path.sigma(t) / given.path.alpha(t)
        return (level > self.sigma_min) & (level <= self.sigma_max)
