"""Checkpoints of SiT: github.com/willisma/SiT, models.py (2401.08740).

SiT counts time from noise (0) to data (1), unscaled, and answers the velocity towards data. The network converted
is told 1 - time, and its answer changes its sign. Where its head has learned variances (learn_sigma), SiT throws that
half away: it lies aside, and goes back as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count
from zoo.converters import dit
from zoo.converters.official import TURNS, VELOCITY, Description, Parts, State, TimeFrom


@CONVERTERS.register("sit")
class SiT:
    """SiT, class-conditional images: github.com/willisma/SiT."""

    keys = ("x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight", dit.LABELS)

    def __init__(self, num_heads: Count | None = None, num_classes: Count | None = None, time_from: TimeFrom = "noise"):
        """`time_from`: what our network counts from. As it is, or with "data" its first Linear turned, and rounded."""
        self.num_heads, self.num_classes, self.time_from = num_heads, num_classes, time_from

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        return describe(state, self.num_heads, self.num_classes, self.time_from)

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        return from_official(state, self.num_classes, self.time_from)

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        parts = dit.without_null(parts, description)
        patch, sizes = description.nodes["tokenizer"]["size"], description.grid[2:]
        return to_official(parts, patch, sizes, description.nodes["backbone"].get("time_from", "data"))


def describe(
    state: State, num_heads: int | None = None, num_classes: int | None = None, time_from: TimeFrom = "noise"
) -> Description:
    """What this checkpoint is. `num_heads` and `num_classes` are needed where it is no published model."""
    as_dit = dit.describe(state, num_heads, num_classes)
    backbone = {**as_dit.nodes["backbone"], "time_scale": 1.0, "time_from": time_from}
    nodes = {**as_dit.nodes, "backbone": backbone, "objective": "rectified_flow"}
    return Description(nodes, as_dit.grid, as_dit.grid.c, as_dit.num_classes)


def from_official(state: State, num_classes: int | None = None, time_from: TimeFrom = "noise") -> Parts:
    """Official state dict -> {"backbone", "conditioner"} and, where half the head is unused, "aside"."""
    parts = as_it_is(state, num_classes)
    return {**parts, "backbone": TURNS[time_from](parts["backbone"])}


def as_it_is(state: State, num_classes: int | None = None) -> Parts:
    """The same network, time and sign as SiT has them."""
    parts = dit.from_official(state, num_classes)
    backbone = parts["backbone"]
    kept = backbone["embed.weight"].shape[1]  # c ph pw: the first half where variances were learned
    unused = {name: backbone[name][kept:] for name in VELOCITY if len(backbone[name]) > kept}
    backbone |= {name: backbone[name][:kept] for name in VELOCITY}
    return {**parts, "aside": unused} if unused else parts


def to_official(parts: Parts, patch: int, sizes: tuple[int, int], time_from: TimeFrom = "noise") -> dict[str, Tensor]:
    """Ours -> official state dict; of a model with learn_sigma=False where nothing lies aside."""
    backbone = TURNS[time_from](parts["backbone"])
    backbone |= {name: torch.cat([backbone[name], rows]) for name, rows in parts.get("aside", {}).items()}
    return dit.to_official({**parts, "backbone": backbone}, patch, sizes)
