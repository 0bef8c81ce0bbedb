"""Checkpoints of Latte: github.com/Vchitect/Latte, models/latte.py (2401.03048), variant 1.

As DiT, with blocks that alternate between space and time. Official tensors are (B,F,C,H,W), ours
(B,C,T,H,W). Its guidance touches four hard-coded channels, ours all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid
from zoo.converters import dit
from zoo.converters.official import Description, Parts, State
from zoo.layers.embeddings import sincos


@CONVERTERS.register("latte")
class Latte:
    """Latte, variant 1, with and without classes: github.com/Vchitect/Latte."""

    keys = (
        "x_embedder.proj.weight",
        "pos_embed",
        "temp_embed",
        "final_layer.linear.weight",
        "blocks.1.attn.qkv.weight",
    )

    def __init__(self, num_heads: Count | None = None, num_classes: Count | None = None):
        self.num_heads, self.num_classes = num_heads, num_classes

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        return describe(state, self.num_heads, self.num_classes)

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        return from_official(state, self.num_classes)

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        parts = dit.without_null(parts, description)
        return to_official(parts, description.nodes["tokenizer"]["size"], description.grid[1:])


def describe(state: State, num_heads: int | None = None, num_classes: int | None = None) -> Description:
    """What this checkpoint is. `num_heads` and `num_classes` are needed where it is no published model."""
    as_dit = dit.describe(state, num_heads, num_classes)
    nodes = {**as_dit.nodes, "backbone": {**as_dit.nodes["backbone"], "name": "dit_factorized", "plan": "interleaved"}}
    c, _, h, w = as_dit.grid
    return Description(nodes, Grid(c, state["temp_embed"].shape[1], h, w), as_dit.out_channels, as_dit.num_classes)


def from_official(state: State, num_classes: int | None = None) -> Parts:
    """Official state dict -> {"backbone", "conditioner"}."""
    return dit.from_official(state, num_classes)


def to_official(parts: Parts, patch: int, sizes: tuple[int, int, int]) -> dict[str, Tensor]:
    """Ours -> official state dict, with the position tables of a grid of `sizes` (t,h,w)."""
    frames, *frame = sizes
    state = dit.to_official(parts, patch, tuple(frame))
    bias = state["x_embedder.proj.bias"]
    return {**state, "temp_embed": sincos(torch.arange(frames), len(bias))[None].to(bias)}
