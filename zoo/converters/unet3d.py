"""Checkpoints of github.com/lucidrains/video-diffusion-pytorch: Unet3D, the U-Net of 2204.03458.

The network answers noise; its time is the step 0…999 of a cosine table with betas up to 0.9999, our label that divided
by 1000. The frequencies of its rotary positions are stored with every attention, ours are computed. A model that was
trained with text takes a vector beside the time, and a learned one for none (null_cond_emb).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid
from zoo.converters.official import Description, Parts, State, check_axes, inverse
from zoo.layers.embeddings import rounded_frequencies

RES = {
    "block1.proj": "conv1",
    "block1.norm": "norm1",
    "block2.proj": "conv2",
    "block2.norm": "norm2",
    "mlp.1": "steer",
    "res_conv": "skip",
}
LINEAR = {"fn.norm": "norm", "fn.fn.to_qkv": "qkv", "fn.fn.to_out": "proj"}
FULL = {"fn.norm": "norm", "fn.fn.fn.to_qkv": "qkv", "fn.fn.fn.to_out": "proj"}
LEVEL = {"0": ("res1", RES), "1": ("res2", RES), "2": ("space", LINEAR), "3": ("time", FULL), "4": ("resize", {"": ""})}
PLACES: dict[str, tuple[str, Mapping[str, str]]] = {
    "init_conv": ("stem", {"": ""}),
    "init_temporal_attn": ("stem_time", FULL),
    "time_mlp.1": ("time.mlp.0", {"": ""}),
    "time_mlp.3": ("time.mlp.2", {"": ""}),
    "time_rel_pos_bias.relative_attention_bias": ("distances", {"": ""}),
    "mid_block1": ("middle.res1", RES),
    "mid_spatial_attn": ("middle.space", FULL),
    "mid_temporal_attn": ("middle.time", FULL),
    "mid_block2": ("middle.res2", RES),
    "final_conv.0": ("head.0", RES),
    "final_conv.1": ("head.1", {"": ""}),
    **{f"downs.*.{k}": (f"down.*.{name}", inner) for k, (name, inner) in LEVEL.items()},
    **{f"ups.*.{k}": (f"up.*.{name}", inner) for k, (name, inner) in LEVEL.items()},
}
NAMES = {
    f"{there}.{a}".rstrip("."): f"{here}.{b}".rstrip(".")
    for there, (here, inner) in PLACES.items()
    for a, b in inner.items()
}
"""Modules there -> modules here; `*` is the number of a level."""

AXES = {"init_conv.weight": 5, "time_rel_pos_bias.relative_attention_bias.weight": 2, "final_conv.1.weight": 5,
        "null_cond_emb": 2}  # fmt: skip
FREQUENCIES = ".rotary_emb.freqs"
TIME_ATTENTION = "fn.fn.fn.to_qkv.weight"
NULL = "null_cond_emb"


@CONVERTERS.register("unet3d")
class Unet3D:
    """The factorized space-time U-Net, unconditional: github.com/lucidrains/video-diffusion-pytorch."""

    keys = ("init_conv.weight", "time_rel_pos_bias.relative_attention_bias.weight", "final_conv.1.weight")

    def __init__(self, sizes: tuple[Count, Count, Count] = (16, 64, 64)):
        """`sizes` (t,h,w) of the videos, which a U-Net's weights do not tell."""
        self.sizes = sizes

    def describe(self, state: State) -> Description:
        """The components of this checkpoint."""
        check_axes(state, AXES)
        stem, table = state["init_conv.weight"], state["time_rel_pos_bias.relative_attention_bias.weight"]
        dim, channels, *_, kernel = stem.shape
        levels = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("downs."))
        widths = [len(state[f"downs.{i}.0.block1.proj.weight"]) for i in range(levels)]
        num_heads, out = table.shape[1], len(state["final_conv.1.weight"])
        vector = {"name": "vector_embeddings", "dim": state[NULL].shape[1]} if NULL in state else {"name": "none"}
        backbone = {
            "name": "unet3d",
            "dim": dim,
            "multipliers": [width // dim for width in widths],
            "num_heads": num_heads,
            "head_dim": head_dim(state),
            "kernel": kernel,
            "linear_attention": any(key.startswith("downs.0.2.") for key in state),
            "time_scale": 1000.0,
        }
        return Description(
            nodes={
                "tokenizer": "pixels",
                "backbone": backbone,
                "conditioner": vector,
                "objective": {
                    "name": "iddpm" if out == 2 * channels else "epsilon",
                    "path": {"name": "ddpm_cosine", "cap": 0.9999},
                },
            },
            grid=Grid(channels, *self.sizes),
            out_channels=out,
        )

    def from_official(self, state: State) -> Parts:
        """Official state dict -> ours. Raises ValueError for foreign keys and other frequencies."""
        refuse_other_frequencies(state)
        weights = {key: value for key, value in state.items() if key != NULL and not key.endswith(FREQUENCIES)}
        null = {"null": state[NULL][0]} if NULL in state else {}
        return {"backbone": {ours(key): shaped_here(key, value) for key, value in weights.items()}, "conditioner": null}

    def to_official(self, parts: Parts, description: Description) -> dict[str, Tensor]:
        """Ours -> official state dict."""
        state = {}
        for key, value in parts["backbone"].items():
            state[theirs(key)] = shaped_there(theirs(key), value)
        if parts.get("conditioner"):
            state[NULL] = parts["conditioner"]["null"][None]
        turned = min(32, description.nodes["backbone"]["head_dim"])
        for key in [key for key in state if key.endswith(TIME_ATTENTION) and not key.startswith("mid_spatial")]:
            state[key.removesuffix(".to_qkv.weight") + FREQUENCIES] = rounded_frequencies(turned)
        return state


def ours(key: str) -> str:
    """A key there -> here. Raises ValueError for a module that the family does not have."""
    module, _, parameter = key.rpartition(".")
    name = renamed(module, NAMES)
    if name is None:
        raise ValueError(f"'{key}' is not a weight of this kind of checkpoint.")
    return f"{name}.{'table' if name == 'distances' else parameter.replace('gamma', 'weight')}"


def theirs(key: str) -> str:
    """A key here -> there. Raises ValueError for a module of another network."""
    module, _, parameter = key.rpartition(".")
    name = renamed(module, inverse(NAMES))
    if name is None:
        raise ValueError(f"'{key}' is not a weight of this kind of network.")
    gain = "norm" in module.rpartition(".")[-1]
    return f"{name}.{'gamma' if gain else parameter.replace('table', 'weight')}"


def renamed(module: str, names: Mapping[str, str]) -> str | None:
    """A module by the table, its level's number kept; None when the table lacks it."""
    parts = module.split(".")
    number = parts[1] if parts[0] in ("downs", "ups", "down", "up") and len(parts) > 1 else ""
    pattern = ".".join([parts[0], "*", *parts[2:]]) if number else module
    return names[pattern].replace("*", number) if pattern in names else None


def shaped_here(key: str, value: Tensor) -> Tensor:
    """Gains are vectors, the 1x1 convolutions of linear attention are Linears."""
    if key.endswith("gamma"):
        return value.flatten()
    return value.flatten(1) if linear_attention(key) and value.ndim > 1 else value


def shaped_there(key: str, value: Tensor) -> Tensor:
    """The inverse of `shaped_here`; `key` is theirs."""
    if key.endswith("gamma"):
        return value[:, None, None, None] if ".block" in f".{key}" else value[None, :, None, None, None]
    return value[..., None, None] if linear_attention(key) else value


def linear_attention(key: str) -> bool:
    """Whether this is a matrix of linear attention, which they write as a 1x1 convolution."""
    return key.endswith((".2.fn.fn.to_qkv.weight", ".2.fn.fn.to_out.weight"))


def head_dim(state: State) -> int:
    """The channels of a head of temporal attention."""
    num_heads = state["time_rel_pos_bias.relative_attention_bias.weight"].shape[1]
    return len(state[f"init_temporal_attn.{TIME_ATTENTION}"]) // 3 // num_heads


def refuse_other_frequencies(state: State) -> None:
    """Raises ValueError when the stored rotary frequencies are not those that are computed here."""
    expected = rounded_frequencies(min(32, head_dim(state)))
    for key in [key for key in state if key.endswith(FREQUENCIES)]:
        found = state[key].cpu().float()
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-5):
            raise ValueError(f"{key} are not 10000^(-i/{len(expected)}): this is not a checkpoint of Unet3D.")
