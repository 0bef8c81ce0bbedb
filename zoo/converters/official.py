"""What the converters share: renaming modules, the order of a patch's channels, the direction of time.

Axes: D width, C channels of the latent before patching, pt ph pw the patch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from vidiff.types import Description  # noqa: F401  (converters take it from here)
from zoo.layers.embeddings import MAX_PERIOD

State = Mapping[str, Tensor]
TimeFrom = Literal["noise", "data"]
VELOCITY = ("head.linear.weight", "head.linear.bias")
Parts = dict[str, dict[str, Tensor]]

DIT_NAMES = {
    "x_embedder.proj": "embed",
    "t_embedder.mlp.0": "time.mlp.0",
    "t_embedder.mlp.2": "time.mlp.2",
    "blocks.*.adaLN_modulation.1": "blocks.*.adaln.linear",
    "blocks.*.attn.qkv": "blocks.*.attn.qkv",
    "blocks.*.attn.proj": "blocks.*.attn.proj",
    "blocks.*.mlp.fc1": "blocks.*.mlp.fc1",
    "blocks.*.mlp.fc2": "blocks.*.mlp.fc2",
    "final_layer.adaLN_modulation.1": "head.adaln.linear",
    "final_layer.linear": "head.linear",
}
"""Modules of DiT, SiT and Latte -> modules of our transformers."""

PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Width -> heads of the sizes S, B, L and XL: weights alone do not tell."""


def rename(state: State, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Every key by the table of modules (`*` is a block's number). Raises ValueError for a module it lacks."""
    renamed, foreign = {}, []
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        number = re.search(r"(?<=\bblocks\.)\d+", module)
        pattern = re.sub(r"(?<=\bblocks\.)\d+", "*", module)
        if pattern not in names:
            foreign.append(key)
            continue
        renamed[f"{names[pattern].replace('*', number[0] if number else '*')}.{parameter}"] = value
    refuse_foreign(foreign)
    return renamed


def refuse_foreign(keys: Sequence[str]) -> None:
    """Raises ValueError naming the first of them when there are any."""
    if len(keys) == 1:
        raise ValueError(f"'{keys[0]}' is not a weight of this kind of checkpoint.")
    if keys:
        more = f" (and {len(keys) - 3} more)" if len(keys) > 3 else ""
        named = ", ".join(f"'{key}'" for key in keys[:3])
        raise ValueError(f"{named}{more} are not weights of this kind of checkpoint.")


def check_axes(state: State, axes: Mapping[str, int]) -> None:
    """Raises ValueError for a weight with another number of axes; one that is missing is named where it is needed."""
    for key, number in axes.items():
        if key in state and state[key].ndim != number:
            raise ValueError(f"'{key}' is {tuple(state[key].shape)}, expected {number} axes.")


def check_head(state: State, name: str, cells: int) -> None:
    """Raises ValueError when the rows of the last Linear are no whole numbers of channels for the cells of a patch."""
    for key in (f"{name}.weight", f"{name}.bias"):
        if len(state[key]) % cells:
            raise ValueError(f"'{key}' is {tuple(state[key].shape)}, no multiple of the {cells} cells of a patch.")


def inverse(names: Mapping[str, str]) -> dict[str, str]:
    """The table read from right to left."""
    return {ours: official for official, ours in names.items()}


def pixels_last_to_channels_first(rows: Tensor, patch: int) -> Tensor:
    """Rows of an official head (ph pw c, ...) -> ours (c ph pw, ...): DiT, SiT and Latte unpatchify channels last."""
    return rearrange(rows, "(ph pw c) ... -> (c ph pw) ...", ph=patch, pw=patch)


def channels_first_to_pixels_last(rows: Tensor, patch: int) -> Tensor:
    """The inverse: (c ph pw, ...) -> (ph pw c, ...)."""
    return rearrange(rows, "(c ph pw) ... -> (ph pw c) ...", ph=patch, pw=patch)


def turn_velocity(backbone: State) -> dict[str, Tensor]:
    """A network that answers the velocity towards data, as one that answers that towards the noise. Its own inverse."""
    return {key: -value if key in VELOCITY else value for key, value in backbone.items()}


def turn_time(backbone: State) -> dict[str, Tensor]:
    """A velocity network that counts time from noise to data, as one that counts from data to noise.

    With s = 1 - t the velocity changes its sign, which the last Linear takes over, and

        cos(w s) = cos w cos(w t) + sin w sin(w t),   sin(w s) = sin w cos(w t) - cos w sin(w t),

    which the first Linear behind the sinusoid takes over. It is its own inverse.
    Holds for networks that feed t in [0,1] to the sinusoid unscaled (SiT, Nano-Sora): time_scale 1. Each turn rounds.
    """
    turned = turn_velocity(backbone)
    weight = backbone["time.mlp.0.weight"].double()
    half = weight.shape[1] // 2
    w = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32) / half).double().to(weight.device)
    of_cos, of_sin, *of_zero = weight.split(half, dim=1)
    new = torch.cat([of_cos * w.cos() + of_sin * w.sin(), of_cos * w.sin() - of_sin * w.cos(), *of_zero], dim=1)
    turned["time.mlp.0.weight"] = new.to(backbone["time.mlp.0.weight"].dtype)
    return turned


TURNS = {"noise": turn_velocity, "data": turn_time}
"""`time_from` of our network -> what makes it of one that counts from noise to data."""


def heads(dim: int, num_heads: int | None) -> int:
    """The number of heads, given or by the published sizes. Raises ValueError when neither knows."""
    if num_heads is None and dim not in PUBLISHED_HEADS:
        raise ValueError(
            f"a checkpoint does not say its number of heads, and dim={dim} is no published size: give num_heads."
        )
    return num_heads or PUBLISHED_HEADS[dim]


def depth(state: State) -> int:
    """How many blocks there are."""
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))


def side(places: int) -> int:
    """The side of a square grid of so many places. Raises ValueError when it is none."""
    root = math.isqrt(places)
    if root * root != places:
        raise ValueError(f"{places} positions do not make a square grid.")
    return root
