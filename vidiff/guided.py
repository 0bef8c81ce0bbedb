"""One sampling run of a guided network: all branches of a step in one batched call, and what lasts through the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from vidiff.blocks import Rows
from vidiff.caching import CacheRun
from vidiff.diffusion.estimate import Aiming, Estimate, EstimateFn
from vidiff.diffusion.guidance import Branch, Given, Guidance
from vidiff.diffusion.objective import Objective
from vidiff.types import Cond, join


class GuidedRun:
    """Evaluates branches for a guidance.

    Two things travel beside the guidance, which knows neither: where the step ends, for models that are told, and the
    share of a learned variance, which is that of the condition.
    """

    def __init__(self, backbone: nn.Module, objective: Objective, watch: Callable[[], None], cache: CacheRun):
        self.backbone, self.objective, self.watch, self.cache = backbone, objective, watch, cache
        self.end: Tensor | None = None
        self.share: Tensor | None = None
        self.cond: Cond | None = None

    def estimate(
        self, guidance: Guidance, cond: Branch, uncond: Branch, only: Callable[[Sequence[int]], Branch]
    ) -> EstimateFn:
        """The guided estimate as a function of (x_t, t); of a model that can be told, also of where the step ends."""
        self.cond = cond.cond
        guided = guidance(self.evaluate, Given(cond, uncond, self.objective.path, only))

        def aimed(x: Tensor, t: Tensor, s: Tensor | None) -> Estimate:
            self.end = s
            try:
                return guided(x, t)
            finally:
                self.end = None

        def spread(x: Tensor, t: Tensor) -> Estimate:
            self.share = None
            believed = guided(x, t)
            return believed.spread(self.share)

        return Aiming(aimed) if "jump" in self.objective.tells else spread

    def evaluate(self, x: Tensor, t: Tensor, branches: Sequence[Branch]) -> list[Estimate]:
        """x_t (B,...), t (B,) or (B,t) -> one estimate per branch, from one call of the network."""
        self.watch()
        k, num = len(branches), len(x)
        rows = Rows(k * num, x.device)
        conds = join([branch.cond for branch in branches])
        end = [] if self.end is None else [torch.cat([self.end] * k)]
        with ExitStack() as during:
            for i, branch in enumerate(branches):
                if branch.disturb is not None:
                    during.enter_context(branch.disturb(self.backbone, rows, range(i * num, (i + 1) * num)))
            during.enter_context(self.cache.call(self.backbone, branches, rows))
            told = self.objective.estimate(self.backbone, torch.cat([x] * k), torch.cat([t] * k), conds, *end)
        if told.share is not None:
            first = next((i for i, branch in enumerate(branches) if branch.cond is self.cond), 0)
            self.share = told.share.chunk(k)[first]
        return [Estimate(*pair) for pair in zip(told.x0.chunk(k), told.noise.chunk(k), strict=True)]
