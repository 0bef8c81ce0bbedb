"""Guidance: from the estimates of several branches (cond, uncond, ...) to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.types import Cond

Evaluate = Callable[[Tensor, Tensor, Sequence[Cond]], list[Estimate]]
"""(x_t, t, conditions) -> one Estimate per condition, all in one batched call of the network."""


class Guidance:
    """How the conditional and the unconditional belief are combined; acts on every channel."""

    needs_uncond = True

    def __call__(self, evaluate: Evaluate, cond: Cond, uncond: Cond) -> EstimateFn:
        """The guided estimate as a function of (x_t, t)."""
        raise NotImplementedError
