"""Checkpoints of DiT: github.com/facebookresearch/DiT, models.py (2212.09748).

The network answers noise and variance, (c ph pw) each; its time is the step 0…999, our label that
divided by 1000. Its guidance touches the first three of four latent channels, ours all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vidiff.registry import CONVERTERS
from vidiff.types import Count, Grid
from zoo.converters.official import (
    DIT_NAMES,
    Description,
    Parts,
    State,
    channels_first_to_pixels_last,
    check_axes,
    check_head,
    depth,
    heads,
    inverse,
    pixels_last_to_channels_first,
    rename,
    side,
)
from zoo.layers.embeddings import coordinates, sincos

LABELS = "y_embedder.embedding_table.weight"
AXES = {"x_embedder.proj.weight": 4, "pos_embed": 3, "temp_embed": 3, "blocks.0.mlp.fc1.weight": 2, LABELS: 2,
        "final_layer.linear.weight": 2, "final_layer.linear.bias": 1}  # fmt: skip
TABLES = ("pos_embed", "temp_embed")
"""Fixed sinusoids that official checkpoints store; `sincos` positions compute them."""


@CONVERTERS.register("dit")
class DiT:
    """DiT, class-conditional images: github.com/facebookresearch/DiT."""

    keys = ("x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight", LABELS)

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
        parts = without_null(parts, description)
        return to_official(parts, description.nodes["tokenizer"]["size"], description.grid[2:])


def describe(state: State, num_heads: int | None = None, num_classes: int | None = None) -> Description:
    """What this checkpoint is. `num_heads` and `num_classes` are needed where it is no published model.

    Raises ValueError when the checkpoint does not say something and nobody else does.
    """
    check_axes(state, AXES)
    _, c, patch, _ = state["x_embedder.proj.weight"].shape
    check_head(state, "final_layer.linear", patch**2)
    size = side(state["pos_embed"].shape[1])
    labels = num_classes or (len(state[LABELS]) - 1 if LABELS in state else 0)
    answers = len(state["final_layer.linear.bias"])
    return Description(
        nodes={
            "tokenizer": {"name": "frame_patch", "size": patch},
            "backbone": {"name": "dit_joint", **network(state, num_heads)},
            "positions": "sincos",
            "conditioner": label_node(state, labels),
            "objective": {"name": "iddpm" if answers == 2 * c * patch**2 else "epsilon"},
        },
        grid=Grid(c * patch**2, 1, size, size),
        out_channels=answers,
        num_classes=labels,
    )


def network(state: State, num_heads: int | None) -> dict[str, Any]:
    """The settings that DiT, SiT and Latte share."""
    hidden, dim = state["blocks.0.mlp.fc1.weight"].shape
    return {
        "dim": dim,
        "depth": depth(state),
        "num_heads": heads(dim, num_heads),
        "mlp_ratio": hidden / dim,
        "activation": "gelu_tanh",
        "time_scale": 1000.0,
    }


def from_official(state: State, num_classes: int | None = None) -> Parts:
    """Official state dict -> {"backbone", "conditioner"}.

    A model trained without label dropout has no null row: give `num_classes`, and it gets one of zeros.
    Raises ValueError for foreign keys and for positions that are not the fixed sinusoids.
    """
    refuse_other_tables(state)
    patch = state["x_embedder.proj.weight"].shape[-1]
    backbone = rename({k: v for k, v in state.items() if k not in (LABELS, *TABLES)}, DIT_NAMES)
    backbone["embed.weight"] = backbone["embed.weight"].flatten(1)
    for name in ("head.linear.weight", "head.linear.bias"):
        backbone[name] = pixels_last_to_channels_first(backbone[name], patch)
    return {"backbone": backbone, "conditioner": label_rows(state, num_classes)}


def to_official(parts: Parts, patch: int, sizes: tuple[int, int]) -> dict[str, Tensor]:
    """{"backbone", "conditioner"} -> official state dict, with the position table of a grid of `sizes` (h,w)."""
    backbone = dict(parts["backbone"])
    for name in ("head.linear.weight", "head.linear.bias"):
        backbone[name] = channels_first_to_pixels_last(backbone[name], patch)
    backbone["embed.weight"] = rearrange(backbone["embed.weight"], "d (c ph pw) -> d c ph pw", ph=patch, pw=patch)
    state = rename(backbone, inverse(DIT_NAMES))
    state["pos_embed"] = frame_table(sizes, len(backbone["embed.bias"])).to(backbone["embed.bias"])
    if parts.get("conditioner"):
        state[LABELS] = parts["conditioner"]["embedding.weight"]
    return state


def label_node(state: State, labels: int) -> dict[str, Any]:
    """The conditioner of a checkpoint; without a null row no label was ever dropped."""
    if not labels:
        return {"name": "none"}
    return {"name": "label", "drop": 0.0} if LABELS in state and len(state[LABELS]) == labels else {"name": "label"}


def without_null(parts: Parts, description: Description) -> Parts:
    """The inverse of the null row that a checkpoint without label dropout was given."""
    if description.nodes["conditioner"].get("drop") != 0:
        return parts
    rows = parts["conditioner"]["embedding.weight"][: description.num_classes]
    return {**parts, "conditioner": {"embedding.weight": rows}}


def label_rows(state: State, num_classes: int | None) -> dict[str, Tensor]:
    """The label table with its null row last."""
    if LABELS not in state:
        return {}
    rows = state[LABELS]
    if num_classes == len(rows):
        rows = torch.cat([rows, torch.zeros_like(rows[:1])])
    return {"embedding.weight": rows}


def frame_table(sizes: tuple[int, int], dim: int) -> Tensor:
    """The fixed positions of a frame: (1,h*w,D), first half columns, second half rows."""
    row, column = coordinates(sizes, torch.device("cpu")).unbind(-1)
    return torch.cat([sincos(column, dim // 2), sincos(row, dim // 2)], dim=-1).flatten(0, 1)[None]


def refuse_other_tables(state: State) -> None:
    """Raises ValueError when a stored position table is not what `sincos` computes."""
    tables = {"pos_embed": lambda n, d: frame_table((side(n), side(n)), d)}
    tables["temp_embed"] = lambda n, d: sincos(torch.arange(n), d)[None]
    for name in TABLES:
        if name in state:
            _, n, dim = state[name].shape
            error = (state[name].cpu().float() - tables[name](n, dim)).abs().max().item()
            if error > 1e-5:
                raise ValueError(
                    f"{name} differs by {error:.2g} from the fixed sinusoids: this is not an official table."
                )
