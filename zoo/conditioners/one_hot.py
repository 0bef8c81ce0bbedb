"""The class itself, with nothing to learn: a unit vector, and zero for no class (Ho & Salimans 2022 (2207.12598))."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction


@CONDITIONERS.register("one_hot")
class OneHot(nn.Module):
    """A vector with a 1 at the label, as wide as the network or, where it has no width, as there are classes.

    For networks that know what a class is (`oracle_mixture`), and to see what a learned embedding is good for.
    """

    reads = frozenset({"label"})

    def __init__(self, drop: Fraction = 0.1, *, width: int, num_classes: int):
        """Raises ValueError for a data set without labels, or of more classes than the network is wide."""
        super().__init__()
        if num_classes == 0:
            raise ValueError("it needs a data set with labels (this one has none). Use conditioner=none.")
        if width and width < num_classes:
            raise ValueError(f"{num_classes} classes do not fit a vector of {width}. Use conditioner=label.")
        self.drop, self.spec = drop, CondSpec(vector=width or num_classes)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["label"] (B,), drop (B,) bool -> vector (B,V) float32. Raises ValueError for a batch without labels."""
        if "label" not in batch:
            raise ValueError("conditioner=one_hot: the batch has no labels. Give one label per sample.")
        place = torch.arange(self.spec.vector, device=drop.device)
        return Cond(vector=((batch["label"].to(drop.device)[:, None] == place) & ~drop[:, None]).float())
