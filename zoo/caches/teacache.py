"""TeaCache: Liu et al. 2024, Timestep Embedding Tells (2411.19108), sec. 3.3.

The modulated input of the first block, norm and timestep embedding together, tells how much the output will change.
The relative change between steps, rescaled by a polynomial that is fitted to a model, is summed up; all blocks are
skipped, and what they added last is added again, while the sum is below a threshold.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vidiff.blocks import check_streams
from vidiff.caching import Cache, CacheRun, Kept, OffRun, Stack, Tally
from vidiff.registry import CACHES
from vidiff.types import NonNegative


class TeaCacheRun(Stack):
    """One sampling run."""

    def __init__(self, cache: TeaCache, tally: Tally):
        super().__init__(tally)
        self.cache = cache

    def look(self, block: nn.Module, inputs: tuple[Any, ...], answer: Any) -> Tensor:
        """The first block's modulated input (B,...)."""
        return block.modulated(*inputs)

    def fresh(self, kept: Kept, change: float, look: Tensor) -> bool:
        """Whether the changes since the last computed step add up to the threshold."""
        kept.sum, kept.look = kept.sum + self.cache.rescaled(change), look
        return not kept.sum < self.cache.threshold or self.cache.threshold == 0


@CACHES.register("teacache", tiny=dict(threshold=0.1))
class TeaCache(Cache):
    """All blocks are skipped until the rescaled changes of the modulated input add up to `threshold`; 0 is off.

    `coefficients` of the polynomial, the highest power first, as published ones are written; [1, 0] changes nothing.
    The first step is computed; the last one, which the authors' code computes too, is known to no sampler here.
    """

    off = ("threshold", 0.0)

    def __init__(self, threshold: NonNegative = 0.1, coefficients: tuple[float, ...] = (1.0, 0.0)):
        self.threshold, self.coefficients = threshold, tuple(coefficients)

    def rescaled(self, change: float) -> float:
        """The polynomial of a change."""
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return value

    def start(self, tally: Tally) -> CacheRun:
        """The state of one sampling run."""
        run = TeaCacheRun(self, tally)
        return OffRun(self, run) if self.is_off else run

    def fits(self, backbone: nn.Module) -> None:
        """Raises ValueError for blocks that change sizes, and for those that time does not modulate."""
        check_streams(backbone)
        if not hasattr(backbone.blocks[0], "modulated"):
            name = type(backbone).__name__
            raise ValueError(f"time does not modulate the blocks of {name}. Use cache=first_block or another backbone.")
