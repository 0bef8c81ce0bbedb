"""What checkpoints in the form of diffusers share: modules by name, fused and separate queries, keys and values.

github.com/huggingface/diffusers (Apache-2.0). Nothing here registers a family; the files beside do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vidiff.types import Description
from zoo.converters.official import State, refuse_foreign

NUMBER = re.compile(r"(?<=blocks\.)\d+")

TIME = {"linear_1": "mlp.0", "linear_2": "mlp.2"}
"""Their TimestepEmbedding -> ours."""

SELF_ATTENTION = {"attn1.qkv": "attn.qkv", "attn1.to_out.0": "attn.proj", "attn1.norm_q": "attn.q_norm",
                  "attn1.norm_k": "attn.k_norm"}  # fmt: skip

CROSS_ATTENTION = {"attn2.to_q": "cross.q", "attn2.kv": "cross.kv", "attn2.to_out.0": "cross.proj",
                   "attn2.norm_q": "cross.q_norm", "attn2.norm_k": "cross.k_norm"}  # fmt: skip

FUSED = {"attn1.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"), "attn2.kv": ("attn2.to_k", "attn2.to_v"),
         "attn2.add_kv": ("attn2.add_k_proj", "attn2.add_v_proj")}  # fmt: skip
"""One Linear of ours -> several of theirs, whose rows follow each other."""


def feed_forward(name: str) -> dict[str, str]:
    """Their FeedForward under this name -> our MLP."""
    return {f"{name}.net.0.proj": "mlp.fc1", f"{name}.net.2": "mlp.fc2"}


def under(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    """A table of modules with both sides under a prefix."""
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in names.items()}


def rename(state: State, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Every key by the table of modules, or of whole keys (`*` is a block's number).

    Raises ValueError for a key that the table lacks.
    """
    renamed, foreign = {}, []
    for key, value in state.items():
        number = NUMBER.search(key)
        pattern = NUMBER.sub("*", key)
        module, _, parameter = pattern.rpartition(".")
        if pattern in names:
            new = names[pattern]
        elif module in names:
            new = f"{names[module]}.{parameter}"
        else:
            foreign.append(key)
            continue
        renamed[new.replace("*", number[0] if number else "*")] = value
    refuse_foreign(foreign)
    return renamed


def fuse(state: State) -> dict[str, Tensor]:
    """Queries, keys and values of one attention as one Linear.

    Raises KeyError where one is missing, ValueError where their shapes differ.
    """
    fused = dict(state)
    for whole, parts in FUSED.items():
        for key in [k for k in fused if f".{parts[0]}." in k]:
            rows = [fused.pop(key.replace(parts[0], part)) for part in parts]
            if len({row.shape for row in rows}) > 1:
                shapes = ", ".join(f"{part} {tuple(row.shape)}" for part, row in zip(parts, rows, strict=True))
                raise ValueError(f"the parts of '{key.replace(parts[0], whole)}' are of different shapes: {shapes}.")
            fused[key.replace(parts[0], whole)] = torch.cat(rows)
    return fused


def unfuse(state: State) -> dict[str, Tensor]:
    """The inverse of `fuse`."""
    separate = dict(state)
    for whole, parts in FUSED.items():
        for key in [k for k in separate if f".{whole}." in k]:
            rows = separate.pop(key).chunk(len(parts))
            separate |= {key.replace(whole, part): row.contiguous() for part, row in zip(parts, rows, strict=True)}
    return separate


def tokenizer(size: Sequence[int]) -> dict[str, Any]:
    """The tokenizer that cuts patches of this size (t,h,w)."""
    t, h, w = size
    return {"name": "frame_patch", "size": h} if t == 1 and h == w else {"name": "tubelet", "size": [t, h, w]}


def patch(description: Description) -> tuple[int, int, int]:
    """The inverse: the size (t,h,w) of a described tokenizer's patches."""
    node = description.nodes["tokenizer"]
    return (1, node["size"], node["size"]) if node["name"] == "frame_patch" else tuple(node["size"])


def beside(text: dict[str, Any], channels: int, *others: dict[str, Any]) -> dict[str, Any]:
    """The conditioner of a text, of others and of as many channels of a patch that are no latent's.

    Raises ValueError when there are fewer channels than the latent has.
    """
    if channels < 0:
        raise ValueError(
            f"it answers {-channels} channels of a patch more than it takes: no model of this family does."
        )
    parts = [text, *others, *([{"name": "latent_beside", "channels": channels}] if channels else [])]
    return parts[0] if len(parts) == 1 else {"name": "several", "parts": parts}


def depth(state: State, blocks: str = "transformer_blocks") -> int:
    """How many blocks of this name there are."""
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{blocks}."))


def heads(dim: int, num_heads: int | None, head_dim: int) -> int:
    """The number of heads, given or by the published width of a head. Raises ValueError when neither fits."""
    if num_heads is None and dim % head_dim:
        raise ValueError(
            f"a checkpoint does not say its number of heads, and dim={dim} does not split into heads of {head_dim}: "
            "give num_heads."
        )
    return num_heads or dim // head_dim
