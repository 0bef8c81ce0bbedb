"""A second time for any backbone: added to the condition's vector, which steers every block beside the first.

Frans et al. 2024 (2410.12557), sec. 3, and Geng et al. 2025 (2505.13447), sec. 4.3: the network is told t and the
length of the step, t - s, each through an embedding of its own; the embeddings are added.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vidiff.types import Cond, CondSpec
from zoo.layers.embeddings import TimeEmbedding


class SecondTime(nn.Module):
    """The length of a step, told through `Cond.vector`. Zero at the start: a fresh network is the one without it."""

    def __init__(self, width: int, scale: float):
        """Raises ValueError for a backbone that says no width."""
        super().__init__()
        if not width:
            raise ValueError(
                "it tells the network a second time as a vector of its width, and the backbone has no dim."
            )
        self.width = width
        with torch.random.fork_rng(devices=[]):  # the network's own weights are drawn as without it
            self.embedding = TimeEmbedding(width, scale)
        nn.init.zeros_(self.embedding.mlp[-1].weight)
        nn.init.zeros_(self.embedding.mlp[-1].bias)

    def extend(self, spec: CondSpec) -> CondSpec:
        """The condition with a vector, whether it had one or not. Raises ValueError for one of another width."""
        if spec.vector not in (0, self.width):
            raise ValueError(
                f"it tells a second time beside the condition's vector, which is {spec.vector} wide, and the network "
                f"is {self.width} wide. Use backbone.dim={spec.vector}, or another conditioner."
            )
        return replace(spec, vector=self.width)

    def forward(self, cond: Cond, length: Tensor) -> Cond:
        """A condition and the length of a step (B,) in [0,1] -> the condition with vector (B,width)."""
        told = self.embedding(length)
        return replace(cond, vector=told if cond.vector is None else cond.vector + told)
