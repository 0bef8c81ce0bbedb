"""Checkpoints of LTX-Video's transformer in the form of diffusers: LTXVideoTransformer3DModel (2501.00103).

It takes packed latents of its VAE, one cell a token, 1000 sigma as time, and answers noise - x0, as ours does.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid, Positive
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
from zoo.converters.official import Description, Parts, State, check_axes, inverse

NAMES = {
    "proj_in": "embed",
    "proj_out": "head.linear",
    "scale_shift_table": "head.table",
    "time_embed.linear": "adaln.linear",
    "caption_projection.linear_1": "text.fc1",
    "caption_projection.linear_2": "text.fc2",
    "transformer_blocks.*.scale_shift_table": "blocks.*.table",
    **under("time_embed.emb.timestep_embedder", "time", TIME),
    **under("transformer_blocks.*", "blocks.*", {**SELF_ATTENTION, **CROSS_ATTENTION, **feed_forward("ff")}),
}

AXES = {"proj_in.weight": 2, "caption_projection.linear_1.weight": 2, "proj_out.bias": 1}


@CONVERTERS.register("ltx")
class LTX:
    """LTX-Video's transformer, text to video: diffusers' LTXVideoTransformer3DModel."""

    keys = ("proj_in.weight", "time_embed.linear.weight", "caption_projection.linear_1.weight",
            "transformer_blocks.0.attn2.norm_q.weight")  # fmt: skip

    def __init__(
        self,
        num_heads: Count | None = None,
        sizes: tuple[Count, Count, Count] = (16, 16, 24),
        cell: tuple[Positive, Positive, Positive] = (0.32, 32.0, 32.0),
        length: Count = 128,
    ):
        """`sizes` (t,h,w) of the latent, `cell` in seconds and pixels (8/25 s at 25 frames a second), text `length`.

        Published models have heads of 64 channels.
        """
        self.num_heads, self.sizes, self.cell, self.length = num_heads, sizes, cell, length

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        check_axes(state, AXES)
        dim, c = state["proj_in.weight"].shape
        return Description(
            nodes={
                "tokenizer": {"name": "pixels"},
                "backbone": {
                    "name": "dit_cross",
                    "dim": dim,
                    "depth": depth(state),
                    "num_heads": heads(dim, self.num_heads, 64),
                    "mlp_ratio": len(state["transformer_blocks.0.ff.net.0.proj.bias"]) / dim,
                    "norm": "rms",
                    "qk_norm": "rms_across",
                    "qk_eps": 1e-5,
                    "activation": "gelu_tanh",
                },
                "positions": {"name": "rotary_fractional", "cell": list(self.cell)},
                "conditioner": {
                    "name": "text_embeddings",
                    "dim": state["caption_projection.linear_1.weight"].shape[1],
                    "length": self.length,
                },
                "objective": {"name": "rectified_flow"},
            },
            grid=Grid(c, *self.sizes),
            out_channels=len(state["proj_out.bias"]),
        )

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        return {"backbone": rename(fuse(state), NAMES), "conditioner": {}}

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        return unfuse(rename(parts["backbone"], inverse(NAMES)))
