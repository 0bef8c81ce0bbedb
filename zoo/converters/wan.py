"""Checkpoints of Wan 2.1's transformer in the form of diffusers: WanTransformer3DModel (2503.20314).

It takes latents of its VAE in patches, 1000 sigma as time, and answers noise - x0 in patches ordered
(pt ph pw c). The image-to-video model has more channels at its entrance, our condition's `channels` (in patches, as
the tokenizer orders the latent's), and a second set of keys and values for the tokens of an image, our condition's
`image`: conditioners text_embeddings, image_embeddings and latent_beside together. The model of a first and a last
frame has the tokens of both one after the other, and a learned vector for each place of them.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid
from zoo.converters.diffusers import (
    CROSS_ATTENTION,
    SELF_ATTENTION,
    TIME,
    beside,
    depth,
    feed_forward,
    fuse,
    heads,
    patch,
    rename,
    tokenizer,
    under,
    unfuse,
)
from zoo.converters.official import Description, Parts, State, check_axes, check_head, inverse

NAMES = {
    "patch_embedding": "embed",
    "proj_out": "head.linear",
    "scale_shift_table": "head.table",
    "condition_embedder.time_proj": "adaln.linear",
    "condition_embedder.text_embedder.linear_1": "text.fc1",
    "condition_embedder.text_embedder.linear_2": "text.fc2",
    "blocks.*.scale_shift_table": "blocks.*.table",
    "blocks.*.norm2": "blocks.*.cross_norm",
    **under("condition_embedder.time_embedder", "time", TIME),
    **under(
        "condition_embedder.image_embedder",
        "image",
        {"norm1": "norm1", "ff.net.0.proj": "fc1", "ff.net.2": "fc2", "norm2": "norm2"},
    ),
    **under("blocks.*", "blocks.*", {**SELF_ATTENTION, **CROSS_ATTENTION, **feed_forward("ffn")}),
    **under("blocks.*.attn2", "blocks.*.cross", {"add_kv": "kv_image", "norm_added_k": "k_norm_image"}),
}

PLACES = "condition_embedder.image_embedder.pos_embed"
EXTRA = "embed_channels.weight"
AXES = {"patch_embedding.weight": 5, "condition_embedder.time_embedder.linear_1.weight": 2, "proj_out.weight": 2,
        "condition_embedder.text_embedder.linear_1.weight": 2, "proj_out.bias": 1, PLACES: 3}  # fmt: skip
HEAD_ROWS = ("head.linear.weight", "head.linear.bias")


@CONVERTERS.register("wan")
class Wan:
    """Wan 2.1's transformer, text and image to video: diffusers' WanTransformer3DModel."""

    keys = ("patch_embedding.weight", "condition_embedder.time_proj.weight",
            "condition_embedder.text_embedder.linear_1.weight", "blocks.0.attn2.norm_q.weight")  # fmt: skip

    def __init__(
        self,
        num_heads: Count | None = None,
        sizes: tuple[Count, Count, Count] = (21, 30, 52),
        length: Count = 512,
        places: Count = 257,
    ):
        """`sizes` (t,h,w) of the tokens (480p of 81 frames), `length` of the text, `places` of an image's tokens.

        Published models have heads of 128 channels.
        """
        self.num_heads, self.sizes, self.length, self.places = num_heads, sizes, length, places

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        check_axes(state, AXES)
        dim, _, *size = state["patch_embedding.weight"].shape
        check_head(state, "proj_out", math.prod(size))
        num_heads = heads(dim, self.num_heads, 128)
        side = 2 * (dim // num_heads // 6)  # channels of a head that belong to h, and as many to w
        out = len(state["proj_out.bias"])
        return Description(
            nodes={
                "tokenizer": tokenizer(size),
                "backbone": {
                    "name": "dit_cross",
                    "dim": dim,
                    "depth": depth(state, "blocks"),
                    "num_heads": num_heads,
                    "mlp_ratio": len(state["blocks.0.ffn.net.0.proj.bias"]) / dim,
                    "qk_norm": "rms_across",
                    "cross_norm": "blocks.0.norm2.weight" in state,
                    "activation": "gelu_tanh",
                    "frequencies": state["condition_embedder.time_embedder.linear_1.weight"].shape[1],
                },
                "positions": {"name": "rotary", "sections": [dim // num_heads - 2 * side, side, side]},
                "conditioner": self._conditioner(state),
                "objective": {"name": "rectified_flow"},
            },
            grid=Grid(out, *self.sizes),
            out_channels=out,
        )

    def _conditioner(self, state: State) -> dict:
        dim = state["condition_embedder.text_embedder.linear_1.weight"].shape[1]
        text, image = {"name": "text_embeddings", "dim": dim, "length": self.length}, []
        if "condition_embedder.image_embedder.norm1.weight" in state:
            dim = len(state["condition_embedder.image_embedder.norm1.weight"])
            places = {"places": state[PLACES].shape[1], "placed": True} if PLACES in state else {"places": self.places}
            image = [{"name": "image_embeddings", "dim": dim, **places}]
        return beside(text, state["patch_embedding.weight"][0].numel() - len(state["proj_out.bias"]), *image)

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        table = {"parts.1.table": state[PLACES][0]} if PLACES in state else {}
        backbone = rename(fuse({k: v for k, v in state.items() if k != PLACES}), NAMES)
        backbone = {k: v[0] if k.endswith("table") else v for k, v in backbone.items()}  # (1,6,D) -> (6,D)
        weight = backbone["embed.weight"]
        pt, ph, pw = weight.shape[2:]
        latents = len(state["proj_out.bias"]) // (pt * ph * pw)
        backbone["embed.weight"] = weight[:, :latents].flatten(1)
        if weight.shape[1] > latents:
            backbone[EXTRA] = weight[:, latents:].flatten(1)
        for name in HEAD_ROWS:
            backbone[name] = rearrange(backbone[name], "(t p q c) ... -> (c t p q) ...", t=pt, p=ph, q=pw)
        return {"backbone": backbone, "conditioner": table}

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        pt, ph, pw = patch(description)
        backbone = {k: v[None] if k.endswith("table") else v for k, v in parts["backbone"].items()}
        for name in HEAD_ROWS:
            backbone[name] = rearrange(backbone[name], "(c t p q) ... -> (t p q c) ...", t=pt, p=ph, q=pw)
        weight = torch.cat([backbone["embed.weight"], *[backbone.pop(k) for k in list(backbone) if k == EXTRA]], dim=1)
        backbone["embed.weight"] = rearrange(weight, "d (c t p q) -> d c t p q", t=pt, p=ph, q=pw)
        tables = [value[None] for key, value in parts.get("conditioner", {}).items() if key.endswith(".table")]
        return unfuse(rename(backbone, inverse(NAMES))) | dict(zip([PLACES], tables))
