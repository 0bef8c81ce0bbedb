"""Checkpoints of CogVideoX's transformer in the form of diffusers: CogVideoXTransformer3DModel (2408.06072).

Official tensors are (B,F,C,H,W), time is the integer step of the schedule, the answer is v. Version 1.0 cuts
frames into patches with a convolution, 1.5 cuts tubelets of two frames with a Linear; the channels of both are
ordered as ours. Version 1.5 for image to video adds a second number to the time (`ofs`, always 2): it is folded
into a bias, so such a checkpoint is not written back.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid
from zoo.converters.diffusers import SELF_ATTENTION, TIME, depth, feed_forward, fuse, heads, rename, under, unfuse
from zoo.converters.official import Description, Parts, State, inverse
from zoo.layers.embeddings import time_sinusoid

NAMES = {
    "patch_embed.proj": "embed",
    "patch_embed.text_proj": "text",
    "norm_final": "head.norm",
    "norm_out.linear": "head.adaln.linear",
    "norm_out.norm": "head.modulated",
    "proj_out": "head.linear",
    **under("time_embedding", "time", TIME),
    **under(
        "transformer_blocks.*",
        "blocks.*",
        {
            **{f"{norm}.norm": f"{norm}.norm" for norm in ("norm1", "norm2")},
            **{f"{norm}.linear": f"{norm}.adaln.linear" for norm in ("norm1", "norm2")},
            **SELF_ATTENTION,
            **feed_forward("ff"),
        },
    ),
}

POSITIONS = "patch_embed.pos_embedding"
"""A table that some files store; positions are computed."""

OFS, OFS_VALUE = "ofs_embedding", 2.0

TUBELET = (2, 2, 2)
"""What version 1.5 cuts; its weights do not tell."""

SINCOS_DIM = 1920
"""The width of CogVideoX-2B, the one published model with sinusoids."""


@CONVERTERS.register("cogvideox")
class CogVideoX:
    """CogVideoX 1.0 and 1.5, text to video: diffusers' CogVideoXTransformer3DModel."""

    keys = ("patch_embed.proj.weight", "patch_embed.text_proj.weight", "norm_final.weight",
            "transformer_blocks.0.norm1.linear.weight")  # fmt: skip

    def __init__(
        self,
        num_heads: Count | None = None,
        sizes: tuple[Count, Count, Count] = (13, 30, 45),
        length: Count = 226,
        rotary: bool | None = None,
    ):
        """`sizes` (t,h,w) of the tokens (49 frames of 480x720), text `length`, `rotary` or sinusoidal positions.

        Published models have heads of 64 channels, and rotary positions but for CogVideoX-2B.
        """
        self.num_heads, self.sizes, self.length, self.rotary = num_heads, sizes, length, rotary

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        dim, num_heads = self._dim(state), heads(self._dim(state), self.num_heads, 64)
        rotary = dim != SINCOS_DIM if self.rotary is None else self.rotary
        head = dim // num_heads
        sections = [head // 4, head // 8 * 3, head // 8 * 3]
        out = len(state["proj_out.bias"])
        return Description(
            nodes={
                "tokenizer": self._tokenizer(state),
                "backbone": {
                    "name": "dit_expert",
                    "dim": dim,
                    "depth": depth(state),
                    "num_heads": num_heads,
                    "mlp_ratio": len(state["transformer_blocks.0.ff.net.0.proj.bias"]) / dim,
                    "activation": "gelu_tanh",
                    "time_dim": len(state["time_embedding.linear_1.bias"]),
                },
                "positions": {"name": "rotary", "sections": sections}
                if rotary
                else {"name": "sincos", "stretch": [1.0, 1.875, 1.875]},
                "conditioner": {
                    "name": "text_embeddings",
                    "dim": state["patch_embed.text_proj.weight"].shape[1],
                    "length": self.length,
                },
                "objective": {"name": "v_prediction", "path": {"name": "ddpm_scaled_linear"}},
            },
            grid=Grid(state["patch_embed.proj.weight"].flatten(1).shape[1], *self.sizes),
            out_channels=out,
        )

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        kept = {k: v for k, v in state.items() if k != POSITIONS and not k.startswith(f"{OFS}.")}
        backbone = rename(fuse(kept), NAMES)
        backbone["embed.weight"] = backbone["embed.weight"].flatten(1)
        if f"{OFS}.linear_1.weight" in state:
            backbone["time.mlp.2.bias"] = backbone["time.mlp.2.bias"] + offset(state)
        return {"backbone": backbone, "conditioner": {}}

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        state = unfuse(rename(parts["backbone"], inverse(NAMES)))
        tokenizer = description.nodes["tokenizer"]
        if tokenizer["name"] == "frame_patch":
            size, weight = tokenizer["size"], state["patch_embed.proj.weight"]
            state["patch_embed.proj.weight"] = rearrange(weight, "d (c p q) -> d c p q", p=size, q=size)
        return state

    def _dim(self, state: State) -> int:
        return len(state["patch_embed.proj.weight"])

    def _tokenizer(self, state: State) -> dict:
        weight = state["patch_embed.proj.weight"]
        if weight.ndim == 4:
            return {"name": "frame_patch", "size": weight.shape[-1]}
        return {"name": "tubelet", "size": list(TUBELET)}


def offset(state: State) -> Tensor:
    """What the constant `ofs` adds to the time's embedding: (E,)."""
    first, second = (
        (state[f"{OFS}.{name}.weight"].double(), state[f"{OFS}.{name}.bias"].double())
        for name in ("linear_1", "linear_2")
    )
    value = state[f"{OFS}.linear_1.bias"].new_full((), OFS_VALUE)
    added = F.linear(F.silu(F.linear(time_sinusoid(value, first[0].shape[1]).double(), *first)), *second)
    return added.to(state["time_embedding.linear_2.bias"].dtype)
