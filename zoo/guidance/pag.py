"""Perturbed-attention guidance: Ahn et al. 2024 (2403.17377), eq. 15 and 16.

Away from what the network believes when, in some blocks, every token sees itself only: softmax(q k') v becomes v.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.blocks import Rows, check_blocks
from vidiff.diffusion.guidance import AgainstDisturbed, Guidance
from vidiff.registry import GUIDANCE
from vidiff.types import Attention, Natural, NonNegative
from zoo.layers.text import CrossAttention


class OwnValue:
    """An attention that for some rows gives every query its own value, and for the others what it always gives."""

    def __init__(self, attention: Attention, rows: Rows, span: range):
        self.attention, self.rows, self.span = attention, rows, span

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh); where M > N the queries are the last ones -> (B,heads,N,Dh)."""
        return torch.where(self.rows.within(self.span, q), v[:, :, -q.shape[2] :], self.attention(q, k, v, mask))


@GUIDANCE.register("pag", tiny=dict(scale=2.0), parts={"guidance": "guidance"})
class Pag(AgainstDisturbed):
    """guidance + (scale - 1) (cond - perturbed), where `blocks` of the perturbed network attend to nothing else.

    Needs no null condition. `blocks` null is the middle one. Spatial, temporal and joint attention alike are
    perturbed, in-context tokens included; cross-attention to a text is not. The paper's s is scale - 1.
    """

    def __init__(
        self, scale: NonNegative = 4.0, blocks: tuple[Natural, ...] | None = None, guidance: Guidance | str = "none"
    ):
        super().__init__(scale, guidance)
        self.blocks = blocks

    @contextmanager
    def disturb(self, backbone: nn.Module, rows: Rows, span: range) -> Iterator[None]:
        """Within, these rows have no attention in the chosen blocks."""
        modules = self.attentions(backbone)
        before = [m.attention for m in modules]
        try:
            for m, attention in zip(modules, before, strict=True):
                m.attention = OwnValue(attention, rows, span)
            yield
        finally:
            for m, attention in zip(modules, before, strict=True):
                m.attention = attention

    def attentions(self, backbone: nn.Module) -> list[Any]:
        """The modules of the chosen blocks that call an attention within one sequence."""
        chosen = [len(backbone.blocks) // 2] if self.blocks is None else self.blocks
        modules = [m for i in chosen for m in backbone.blocks[i].modules()]
        return [m for m in modules if callable(getattr(m, "attention", None)) and not isinstance(m, CrossAttention)]

    def check(self, model: Any) -> None:
        """Raises ValueError for blocks that are not there, or have no attention to perturb."""
        super().check(model)
        check_blocks(model.backbone, self.blocks or ())
        if not self.attentions(model.backbone):
            name = type(model.backbone).__name__
            raise ValueError(f"the chosen blocks of {name} call no self-attention. Use blocks: of others, or cfg.")
