"""Checkpoints of SiT: github.com/willisma/SiT, models.py (2401.08740).

SiT counts time from noise (0) to data (1), unscaled, and answers the velocity towards data; ours counts
the other way. Where its head has learned variances (learn_sigma), SiT throws that half away; so do we.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count
from zoo.converters import dit
from zoo.converters.official import Description, Parts, State, turn_time


@CONVERTERS.register("sit")
class SiT:
    """SiT, class-conditional images: github.com/willisma/SiT."""

    keys = ("x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight", dit.LABELS)

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
        return to_official(parts, description.nodes["tokenizer"]["size"], description.grid[2:])


def describe(state: State, num_heads: int | None = None, num_classes: int | None = None) -> Description:
    """What this checkpoint is. `num_heads` and `num_classes` are needed where it is no published model."""
    as_dit = dit.describe(state, num_heads, num_classes)
    nodes = {**as_dit.nodes, "backbone": {**as_dit.nodes["backbone"], "time_scale": 1.0}, "objective": "rectified_flow"}
    return Description(nodes, as_dit.grid, as_dit.grid.c, as_dit.num_classes)


def from_official(state: State, num_classes: int | None = None) -> Parts:
    """Official state dict -> {"backbone", "conditioner"} in our direction of time: time_scale 1."""
    parts = as_it_is(state, num_classes)
    return {**parts, "backbone": turn_time(parts["backbone"])}


def as_it_is(state: State, num_classes: int | None = None) -> Parts:
    """The same network, time and sign as SiT has them."""
    parts = dit.from_official(state, num_classes)
    backbone = parts["backbone"]
    kept = backbone["embed.weight"].shape[1]  # c ph pw: the first half where variances were learned
    for name in ("head.linear.weight", "head.linear.bias"):
        backbone[name] = backbone[name][:kept]
    return parts


def to_official(parts: Parts, patch: int, sizes: tuple[int, int]) -> dict[str, Tensor]:
    """Ours -> official state dict of a model with learn_sigma=False."""
    return dit.to_official({**parts, "backbone": turn_time(parts["backbone"])}, patch, sizes)
