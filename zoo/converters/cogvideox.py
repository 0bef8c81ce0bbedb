"""Checkpoints of CogVideoX's transformer in the form of diffusers: CogVideoXTransformer3DModel (2408.06072).

Official tensors are (B,F,C,H,W), time is the integer step of the schedule, the answer is v. Version 1.0 cuts
frames into patches with a convolution, 1.5 cuts tubelets of two frames with a Linear; the channels of both are
ordered as ours. For image to video there are as many channels again at the entrance, those of the known frame:
conditioner latent_beside, in patches; version 1.5 then adds a second number to the time (`ofs`, always 2), version
1.0 a learned vector for each place of text and video.
Trained on a scaled-linear table moved to zero terminal SNR, with its SNR divided by 3 in the 2B model
(snr_shift_scale of the schedulers), which is sampled at "trailing" times: our uniform spacing.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid, Positive
from zoo.converters.diffusers import (
    SELF_ATTENTION,
    TIME,
    beside,
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
    "patch_embed.proj": "embed",
    "patch_embed.text_proj": "text",
    "norm_final": "head.norm",
    "norm_out.linear": "head.adaln.linear",
    "norm_out.norm": "head.modulated",
    "proj_out": "head.linear",
    **under("time_embedding", "time", TIME),
    **under("ofs_embedding", "ofs", TIME),
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
"""Learned vectors beside rotary positions; without these, a table that is computed here, and lies aside."""

PLACES = "places"

AXES = {"patch_embed.text_proj.weight": 2, "proj_out.bias": 1, "time_embedding.linear_1.bias": 1, POSITIONS: 3}
EXTRA = "embed_channels.weight"

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
        snr_shift: Positive | None = None,
        patch: tuple[Count, Count, Count] = (2, 2, 2),
    ):
        """`sizes` (t,h,w) of the tokens (49 frames of 480x720), text `length`, `rotary` or sinusoidal positions.

        `snr_shift` is the snr_shift_scale of its scheduler. Published models have heads of 64 channels, rotary
        positions and an snr_shift of 1, but for CogVideoX-2B, which has sinusoids and 3. `patch` (t,h,w) is what
        version 1.5 cuts, whose weights do not tell.
        """
        self.num_heads, self.sizes, self.length, self.rotary = num_heads, sizes, length, rotary
        self.snr_shift, self.patch = snr_shift, patch

    def describe(self, state: State) -> Description:
        """The components of this checkpoint. Raises ValueError for what nobody says."""
        check_axes(state, AXES)
        dim, num_heads = self._dim(state), heads(self._dim(state), self.num_heads, 64)
        rotary = self._rotary(state)
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
                    "ofs": "ofs_embedding.linear_1.weight" in state,
                    "placed": rotary and POSITIONS in state,
                },
                "positions": {"name": "rotary", "sections": sections}
                if rotary
                else {"name": "sincos", "stretch": [1.0, 1.875, 1.875]},
                "conditioner": self._conditioner(state),
                "objective": {"name": "v_prediction", "path": self._path(rotary)},
            },
            grid=Grid(out, *self.sizes),
            out_channels=out,
        )

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys."""
        backbone = rename(fuse({k: v for k, v in state.items() if k != POSITIONS}), NAMES)
        weight, latents = backbone["embed.weight"].flatten(1), len(state["proj_out.bias"])
        backbone["embed.weight"] = weight[:, :latents]
        backbone |= {EXTRA: weight[:, latents:]} if weight.shape[1] > latents else {}
        table = state.get(POSITIONS)
        if table is None:
            return {"backbone": backbone, "conditioner": {}}
        if self._rotary(state):
            return {"backbone": {**backbone, PLACES: table[0]}, "conditioner": {}}
        return {"backbone": backbone, "conditioner": {}, "aside": {POSITIONS: table}}

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        backbone = dict(parts["backbone"])
        extra, table = ([backbone.pop(k)] if k in backbone else [] for k in (EXTRA, PLACES))
        backbone["embed.weight"] = torch.cat([backbone["embed.weight"], *extra], dim=1)
        state = unfuse(rename(backbone, inverse(NAMES)))
        node = description.nodes["tokenizer"]
        if node["name"] == "frame_patch":
            size, weight = node["size"], state["patch_embed.proj.weight"]
            state["patch_embed.proj.weight"] = rearrange(weight, "d (c p q) -> d c p q", p=size, q=size)
        state |= {POSITIONS: table[0][None]} if table else {}
        return state | dict(parts.get("aside", {}))

    def _path(self, rotary: bool) -> dict:
        shift = (1.0 if rotary else 3.0) if self.snr_shift is None else self.snr_shift
        return {"name": "zero_snr", "path": {"name": "ddpm_scaled_linear"}, "shift": shift}

    def _dim(self, state: State) -> int:
        return len(state["patch_embed.proj.weight"])

    def _rotary(self, state: State) -> bool:
        return self._dim(state) != SINCOS_DIM if self.rotary is None else self.rotary

    def _tokenizer(self, state: State) -> dict:
        weight, cells = state["patch_embed.proj.weight"], math.prod(self.patch)
        if weight.ndim == 4:
            return {"name": "frame_patch", "size": weight.shape[-1]}
        if weight.shape[1] % cells:
            raise ValueError(
                f"patch_embed.proj.weight is {tuple(weight.shape)}, and {weight.shape[1]} is no multiple of the "
                f"{cells} cells of a patch of {list(self.patch)}: give patch=[t,h,w]."
            )
        return {"name": "tubelet", "size": list(self.patch)}

    def _conditioner(self, state: State) -> dict:
        length, places = self.length, math.prod(self.sizes)
        if self._rotary(state) and POSITIONS in state:
            length = state[POSITIONS].shape[1] - places
            if length < 1:
                raise ValueError(
                    f"{POSITIONS} has {length + places} places, and sizes={list(self.sizes)} are {places}."
                )
        text = {"name": "text_embeddings", "dim": state["patch_embed.text_proj.weight"].shape[1], "length": length}
        return beside(text, state["patch_embed.proj.weight"][0].numel() - len(state["proj_out.bias"]))
