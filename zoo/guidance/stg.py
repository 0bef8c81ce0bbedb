"""Spatiotemporal skip guidance: Hyung et al. 2024 (2411.18664), sec. 4, in its residual form (skip-layer guidance).

Away from what the network believes with some of its blocks left out. Its attention form is `pag` on the same blocks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from vidiff.blocks import Rows, as_streams, check_blocks, check_streams, places_of, replaced
from vidiff.diffusion.guidance import AgainstDisturbed, Guidance
from vidiff.registry import GUIDANCE
from vidiff.types import Natural, NonNegative


@GUIDANCE.register("stg", tiny=dict(scale=2.0), parts={"guidance": "guidance"})
class Stg(AgainstDisturbed):
    """guidance + (scale - 1) (cond - skipped), where the skipped network goes without `blocks`.

    Needs no null condition. `blocks` null is the middle one. The paper's s is scale - 1; its rescaling is
    `rescale` around this.
    """

    def __init__(
        self, scale: NonNegative = 2.0, blocks: tuple[Natural, ...] | None = None, guidance: Guidance | str = "none"
    ):
        super().__init__(scale, guidance)
        self.blocks = blocks

    def disturb(self, backbone: nn.Module, rows: Rows, span: range) -> AbstractContextManager:
        """Within, these rows pass the chosen blocks by."""

        def skip(block: nn.Module, *inputs: Any) -> Any:
            answer = block(*inputs)
            streams = tuple(
                stream if stream is None else torch.where(rows.within(span, stream), entered, stream)
                for entered, stream in zip(inputs, as_streams(answer), strict=False)
            )
            return streams if isinstance(answer, tuple) else streams[0]

        chosen = [len(backbone.blocks) // 2] if self.blocks is None else self.blocks
        return replaced(places_of(backbone, chosen), lambda _: skip)

    def check(self, model: Any) -> None:
        """Raises ValueError for blocks that are not there, or that change sizes and cannot be passed by."""
        super().check(model)
        check_streams(model.backbone)
        check_blocks(model.backbone, self.blocks or ())
