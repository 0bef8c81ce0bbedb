"""Exponential moving average of weights (Polyak & Juditsky 1992), the weights one samples from."""

from __future__ import annotations

import copy

import torch
from torch import nn

from vidiff.config.schema import EMA


class MovingAverage:
    """A second copy of a module: ema = d ema + (1 - d) weights after every optimizer step.

    d = min(decay, (1 + s) / (10 + s)) with warm-up. Buffers are copied, not averaged.
    """

    def __init__(self, module: nn.Module, config: EMA):
        self.config = config
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._average = [p for p in self.module.state_dict().values() if p.is_floating_point()]
        self._live = [p for p in module.state_dict().values() if p.is_floating_point()]
        self._whole = [(a, b) for a, b in zip(self.module.state_dict().values(), module.state_dict().values())
                       if not a.is_floating_point()]  # fmt: skip

    def decay(self, step: int) -> float:
        """The decay of optimizer step `step` (1 is the first)."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights, once per optimizer step."""
        torch._foreach_lerp_(self._average, self._live, 1 - self.decay(step))
        for average, live in self._whole:
            average.copy_(live)
