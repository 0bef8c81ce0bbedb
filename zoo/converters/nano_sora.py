"""Checkpoints of Nano-Sora: github.com/taivu1998/Nano-Sora, src/model.py.

It counts time from noise (0) to data (1), unscaled, and answers the velocity towards data in tubelets
ordered (c pt ph pw), which is our order too. The network converted is told 1 - time, and its answer changes its sign.
Positions are learned.
"""

from __future__ import annotations

import math

from einops import rearrange
from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid
from zoo.converters.official import (
    TURNS,
    Description,
    Parts,
    State,
    TimeFrom,
    check_axes,
    depth,
    heads,
    inverse,
    rename,
)

NAMES = {
    "patch_embed.proj": "embed",
    "t_embedder.mlp.0": "time.mlp.0",
    "t_embedder.mlp.2": "time.mlp.2",
    "blocks.*.adaLN_modulation.1": "blocks.*.adaln.linear",
    "blocks.*.attn.qkv": "blocks.*.attn.qkv",
    "blocks.*.attn.proj": "blocks.*.attn.proj",
    "blocks.*.mlp.0": "blocks.*.mlp.fc1",
    "blocks.*.mlp.3": "blocks.*.mlp.fc2",
    "final_adaLN.1": "head.adaln.linear",
    "final_linear": "head.linear",
}

AXES = {"patch_embed.proj.weight": 5, "pos_embed": 3, "t_embedder.mlp.0.weight": 2, "blocks.0.mlp.0.bias": 1}

Sizes = tuple[int, int, int]


@CONVERTERS.register("nano_sora")
class NanoSora:
    """Nano-Sora, unconditional tubelets: github.com/taivu1998/Nano-Sora."""

    keys = ("patch_embed.proj.weight", "pos_embed", "final_adaLN.1.weight", "final_linear.weight")

    def __init__(
        self,
        num_heads: Count | None = None,
        sizes: tuple[Count, Count, Count] | None = None,
        time_from: TimeFrom = "noise",
    ):
        """`sizes` (t,h,w) of the token grid; without them, as many frames as rows as columns.

        `time_from`: what our network counts from. As it is, or with "data" its first Linear turned, and rounded.
        """
        self.num_heads, self.sizes, self.time_from = num_heads, sizes, time_from

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        return describe(state, self._sizes(state), self.num_heads, self.time_from)

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        return from_official(state, self._sizes(state), self.time_from)

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        patch = tuple(description.nodes["tokenizer"]["size"])
        return to_official(parts, patch, description.nodes["backbone"].get("time_from", "data"))

    def _sizes(self, state: State) -> Sizes:
        check_axes(state, AXES)
        places = state["pos_embed"].shape[1]
        sizes = tuple(self.sizes) if self.sizes else (round(places ** (1 / 3)),) * 3
        if math.prod(sizes) != places:
            raise ValueError(
                f"sizes={list(sizes)} are not the {places} positions of this checkpoint: give sizes=[t,h,w]."
            )
        return sizes


def describe(state: State, sizes: Sizes, num_heads: int | None = None, time_from: TimeFrom = "noise") -> Description:
    """What this checkpoint is; `sizes` (t,h,w) of the token grid it was trained on, which only their product tells."""
    dim, c, *patch = state["patch_embed.proj.weight"].shape
    channels = c * patch[0] * patch[1] * patch[2]
    return Description(
        nodes={
            "tokenizer": {"name": "tubelet", "size": patch},
            "backbone": {
                "name": "dit_joint",
                "dim": dim,
                "depth": depth(state),
                "num_heads": heads(dim, num_heads),
                "mlp_ratio": len(state["blocks.0.mlp.0.bias"]) / dim,
                "activation": "gelu_tanh",
                "frequencies": state["t_embedder.mlp.0.weight"].shape[1],
                "time_scale": 1.0,
                "time_from": time_from,
            },
            "positions": "learned",
            "conditioner": "none",
            "objective": "rectified_flow",
        },
        grid=Grid(channels, *sizes),
        out_channels=channels,
    )


def from_official(state: State, sizes: Sizes, time_from: TimeFrom = "noise") -> Parts:
    """Official state dict of a token grid of `sizes` (t,h,w) -> ours."""
    parts = as_it_is(state, sizes)
    return {**parts, "backbone": TURNS[time_from](parts["backbone"])}


def as_it_is(state: State, sizes: Sizes) -> Parts:
    """The same network, time and sign as Nano-Sora has them."""
    backbone = rename({k: v for k, v in state.items() if k != "pos_embed"}, NAMES)
    backbone["embed.weight"] = backbone["embed.weight"].flatten(1)
    t, h, w = sizes
    table = rearrange(state["pos_embed"], "1 (t h w) d -> t h w d", t=t, h=h, w=w)
    backbone["positions.table"] = table if t > 1 else table[0]  # an image has no time axis
    return {"backbone": backbone, "conditioner": {}}


def to_official(parts: Parts, patch: Sizes, time_from: TimeFrom = "noise") -> dict[str, Tensor]:
    """Ours -> official state dict."""
    backbone = TURNS[time_from](parts["backbone"])
    table = backbone.pop("positions.table")
    pt, ph, pw = patch
    weight = backbone["embed.weight"]
    backbone["embed.weight"] = rearrange(weight, "d (c pt ph pw) -> d c pt ph pw", pt=pt, ph=ph, pw=pw)
    return {**rename(backbone, inverse(NAMES)), "pos_embed": table.flatten(0, -2)[None]}
