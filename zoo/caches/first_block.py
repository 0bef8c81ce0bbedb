"""First-block cache: the first block tells whether the others are worth computing.

As in ParaAttention (github.com/chengzeyi/ParaAttention), after TeaCache (2411.19108). With r what the first block
adds to the tokens, the other blocks are skipped, and what they added last is added again, while

    mean |r - r_kept| / mean |r_kept| < threshold         r_kept: at the last step that was computed
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vidiff.blocks import as_streams, check_streams
from vidiff.caching import Cache, CacheRun, Kept, OffRun, Stack, Tally
from vidiff.registry import CACHES
from vidiff.types import NonNegative


class FirstBlockRun(Stack):
    """One sampling run."""

    always = 1

    def __init__(self, threshold: float, tally: Tally):
        super().__init__(tally)
        self.threshold = threshold

    def look(self, block: nn.Module, inputs: tuple[Any, ...], answer: Any) -> Tensor:
        """What the first block added to the video's tokens (B,...)."""
        return as_streams(answer)[0] - inputs[0]

    def fresh(self, kept: Kept, change: float, look: Tensor) -> bool:
        """Whether it added something else than at the last computed step."""
        return not change < self.threshold


@CACHES.register("first_block", tiny=dict(threshold=0.1))
class FirstBlock(Cache):
    """All blocks but the first are skipped while what that one adds changes by less than `threshold`; 0 is off."""

    off = ("threshold", 0.0)

    def __init__(self, threshold: NonNegative = 0.1):
        self.threshold = threshold

    def start(self, tally: Tally) -> CacheRun:
        """The state of one sampling run."""
        run = FirstBlockRun(self.threshold, tally)
        return OffRun(self, run) if self.is_off else run

    def fits(self, backbone: nn.Module) -> None:
        """Raises ValueError for blocks that change sizes, and for one block alone."""
        check_streams(backbone)
        if len(backbone.blocks) < 2:
            raise ValueError("the backbone has one block, and the first one is always computed. Use cache=none.")
