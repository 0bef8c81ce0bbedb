"""A scale for each of several conditions.

nested    Brooks et al. 2022, InstructPix2Pix (2211.09800), eq. 3:  u + sum_i s_i (e(c_1..c_i) - e(c_1..c_(i-1)))
composed  Liu et al. 2022, Composable Diffusion (2206.01714), eq. 11:  u + sum_i s_i (e(c_i) - u)
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Branch, Evaluate, Given, Guidance, added
from vidiff.registry import GUIDANCE
from vidiff.types import NonNegative


@GUIDANCE.register("per_condition", tiny=dict(scales=[2.0, 1.5]))
class PerCondition(Guidance):
    """One scale per part of conditioner `several`, in the order of its parts.

    `nested` adds the conditions one after the other, so equal scales are cfg and scales of 1 the conditional belief
    (one evaluation, same bits); `composed` asks for each alone. A scale of 0 adds nothing of its part; in `nested` the
    terms of later parts still compare under it.
    """

    def __init__(self, scales: tuple[NonNegative, ...], form: Literal["nested", "composed"] = "nested"):
        self.scales, self.form = tuple(scales), form
        self.plain = form == "nested" and set(scales) == {1}
        self.needs_uncond = not self.plain

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        terms = [] if self.plain else self.terms(given)
        branches = list(dict.fromkeys([given.uncond, *(branch for _, *pair in terms for branch in pair)]))

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            if self.plain:
                return evaluate(x, t, [given.cond])[0]
            beliefs = dict(zip(branches, evaluate(x, t, branches), strict=True))
            return added(beliefs[given.uncond], *((s, beliefs[one], beliefs[other]) for s, one, other in terms))

        return estimate

    def terms(self, given: Given) -> list[tuple[float, Branch, Branch]]:
        """What is added to the unconditional belief: scale, with a condition, without it. Scales of 0 add nothing."""
        parts = range(len(self.scales))
        if self.form == "composed":
            return [(s, given.only([i]), given.uncond) for i, s in enumerate(self.scales) if s]
        upto = [given.uncond, *(given.only(parts[:i]) for i in parts[1:]), given.cond]
        return [(s, upto[i + 1], upto[i]) for i, s in enumerate(self.scales) if s]

    def check(self, model) -> None:
        """Raises ValueError when the model has no conditions to tell apart, or another number of them."""
        drop = model.conditioner.drop
        if not isinstance(drop, tuple):
            raise ValueError("it scales several conditions apart, and there is one. Use conditioner several, or cfg.")
        if len(self.scales) != len(drop) - 1:
            raise ValueError(f"there are {len(drop) - 1} conditions and {len(self.scales)} scales: give one for each.")
