"""A learned vector per class, dropped now and then to learn the unconditional model as well.

Ho & Salimans 2022 (2207.12598), sec. 3.2; the embedding as in DiT (2212.09748).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction


@CONDITIONERS.register("label")
class Label(nn.Module):
    """An embedding of num_classes + 1 rows; the last one is the null condition.

    `route`: a vector that steers with the time, or a token that backbones read as they read a text (in context or
    by cross-attention; DiT, sec. 3.2). `drop` is the probability that a training sample loses its label; who draws is
    the caller.
    """

    reads = frozenset({"label"})

    def __init__(
        self, drop: Fraction = 0.1, route: Literal["vector", "token"] = "vector", *, width: int, num_classes: int
    ):
        """Raises ValueError for a data set without labels."""
        super().__init__()
        if num_classes == 0:
            raise ValueError(
                "conditioner=label needs a data set with labels (this one has none). Use conditioner=none."
            )
        self.drop, self.num_classes, self.route = drop, num_classes, route
        self.spec = CondSpec(vector=width) if route == "vector" else CondSpec(tokens=width, length=1)
        self.embedding = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["label"] (B,) in [0,num_classes), drop (B,) bool -> vector (B,width), or tokens (B,1,width).

        With a label for each latent frame (B,t), such as pictures beside a clip have, vector (B,t,width).
        Raises ValueError when the batch has no labels.
        """
        if "label" not in batch:
            raise ValueError("conditioner=label: the batch has no labels. Give one label per sample.")
        drop = drop if batch["label"].ndim == 1 else drop[:, None]
        label = torch.where(drop, self.num_classes, batch["label"].to(drop.device))
        vector = self.embedding(label)
        if self.route == "vector":
            return Cond(vector=vector)
        if label.ndim > 1:
            raise ValueError("conditioner=label: a label for each frame is no token of a clip. Use route=vector.")
        return Cond(tokens=vector[:, None], mask=torch.ones_like(label, dtype=torch.bool)[:, None])
