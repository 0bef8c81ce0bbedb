"""Checkpoints of Latte with text in the form of diffusers: LatteTransformer3DModel (2401.03048).

Spatial blocks with text and temporal blocks without take turns. The network answers noise and variance,
(ph pw c) each, from the integer steps of its schedule. Without its temporal blocks it is PixArt on every frame.
"""

from __future__ import annotations

import re

from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid
from zoo.converters.diffusers import (
    CROSS_ATTENTION,
    SELF_ATTENTION,
    TIME,
    depth,
    feed_forward,
    fuse,
    heads,
    rename,
    under,
    unfuse,
)
from zoo.converters.official import (
    Description,
    Parts,
    State,
    channels_first_to_pixels_last,
    check_axes,
    check_head,
    inverse,
    pixels_last_to_channels_first,
)

NAMES = {
    "pos_embed.proj": "embed",
    "proj_out": "head.linear",
    "scale_shift_table": "head.table",
    "adaln_single.linear": "adaln.linear",
    "caption_projection.linear_1": "text.fc1",
    "caption_projection.linear_2": "text.fc2",
    "blocks.*.scale_shift_table": "blocks.*.table",
    **under("adaln_single.emb.timestep_embedder", "time", TIME),
    **under("blocks.*", "blocks.*", {**SELF_ATTENTION, **CROSS_ATTENTION, **feed_forward("ff")}),
}

TABLES = ("pos_embed.pos_embed", "temp_pos_embed")
"""Fixed sinusoids that some files store; `sincos` positions compute them."""

AXES = {"pos_embed.proj.weight": 4, "proj_out.weight": 2, "proj_out.bias": 1, "caption_projection.linear_1.weight": 2}

HEAD_ROWS = ("head.linear.weight", "head.linear.bias")


@CONVERTERS.register("diffusers_latte")
class DiffusersLatte:
    """Latte, text to video: diffusers' LatteTransformer3DModel."""

    keys = ("pos_embed.proj.weight", "adaln_single.linear.weight", "caption_projection.linear_1.weight",
            "temporal_transformer_blocks.0.attn1.to_q.weight")  # fmt: skip

    def __init__(
        self,
        num_heads: Count | None = None,
        sizes: tuple[Count, Count, Count] = (16, 32, 32),
        length: Count = 120,
        temporal: bool = True,
        sample_size: Count | None = None,
    ):
        """`sizes` (t,h,w) of the tokens, `length` of the text; `temporal` false leaves the temporal blocks away.

        `sample_size` of its configuration, where sizes are others: its positions span the same square whatever the
        grid. The published model has heads of 72 channels, and 64.
        """
        self.num_heads, self.sizes, self.length, self.temporal = num_heads, sizes, length, temporal
        self.sample_size = sample_size

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        check_axes(state, AXES)
        dim, c, patch, _ = state["pos_embed.proj.weight"].shape
        check_head(state, "proj_out", patch**2)
        out = len(state["proj_out.bias"])
        return Description(
            nodes={
                "tokenizer": {"name": "frame_patch", "size": patch},
                "backbone": {
                    "name": "dit_cross",
                    "dim": dim,
                    "depth": depth(state) * (2 if self.temporal else 1),
                    "num_heads": heads(dim, self.num_heads, 72),
                    "layout": "factorized" if self.temporal else "space",
                    "mlp_ratio": len(state["transformer_blocks.0.ff.net.0.proj.bias"]) / dim,
                    "qk_norm": "none",
                    "activation": "gelu_tanh",
                },
                "positions": {"name": "sincos", "stretch": self._stretch(patch)},
                "conditioner": {
                    "name": "text_embeddings",
                    "dim": state["caption_projection.linear_1.weight"].shape[1],
                    "length": self.length,
                },
                "objective": {"name": "iddpm" if out == 2 * c * patch**2 else "epsilon"},
            },
            grid=Grid(c * patch**2, *self.sizes),
            out_channels=out,
        )

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        kept = {k: v for k, v in state.items() if k not in TABLES}
        backbone = rename(fuse(self._interleaved(kept)), NAMES)
        patch = state["pos_embed.proj.weight"].shape[-1]
        backbone["embed.weight"] = backbone["embed.weight"].flatten(1)
        for name in HEAD_ROWS:
            backbone[name] = pixels_last_to_channels_first(backbone[name], patch)
        return {"backbone": backbone, "conditioner": {}}

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict. Raises ValueError when there are no temporal blocks to write."""
        if description.nodes["backbone"].get("layout") != "factorized":
            raise ValueError("a Latte checkpoint has temporal blocks, and this model has none.")
        backbone, patch = dict(parts["backbone"]), description.nodes["tokenizer"]["size"]
        for name in HEAD_ROWS:
            backbone[name] = channels_first_to_pixels_last(backbone[name], patch)
        backbone["embed.weight"] = backbone["embed.weight"].unflatten(1, (-1, patch, patch))
        state = unfuse(rename(backbone, inverse(NAMES)))
        return {re.sub(r"^blocks\.(\d+)", _their_block, key): value for key, value in state.items()}

    def _stretch(self, patch: int) -> list[float]:
        """How many cells along t, h, w count as one: a square of the training's side, with PixArt's scale."""
        if self.sample_size is None:
            return [1.0, 1.0, 1.0]
        base, scale = self.sample_size // patch, max(self.sample_size // 64, 1)
        return [1.0, *(size / base * scale for size in self.sizes[1:])]

    def _interleaved(self, state: State) -> dict[str, Tensor]:
        """Spatial block i as block 2i and temporal block i as 2i + 1; or the spatial ones alone."""
        stride, numbered = 2 if self.temporal else 1, {}
        for key, value in state.items():
            temporal = key.startswith("temporal_")
            if temporal and not self.temporal:
                continue
            pattern = r"^(?:temporal_)?transformer_blocks\.(\d+)"
            new = re.sub(pattern, lambda m, odd=temporal: f"blocks.{stride * int(m[1]) + odd}", key)
            numbered[new] = value
        return numbered


def _their_block(found: re.Match) -> str:
    number = int(found[1])
    return f"{'temporal_' if number % 2 else ''}transformer_blocks.{number // 2}"
