"""Channels that lie beside the latent and come with the batch: masks and known frames as another program encodes them.

Wan's image to video (2503.20314, sec. 5.1) concatenates a mask and the latent of a video whose frames behind the first
are grey; its autoencoder is another program. `frames` takes known frames from the clip itself.

Axes: k channels, t h w the latent grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Count, Fraction, Grid


@CONDITIONERS.register("latent_beside", tiny=dict(channels=4))
class LatentBeside(nn.Module):
    """Passes batch["latent_beside"] (B,channels,t,h,w), on the latent's grid, on; zeros are the null."""

    reads = frozenset({"latent_beside"})

    def __init__(self, channels: Count = 20, drop: Fraction = 0.1, *, grid: Grid):
        super().__init__()
        self.drop, self.spec = drop, CondSpec(channels=channels)
        self.entries = {"latent_beside": (channels, *grid[1:])}

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """batch["latent_beside"] (B,k,t,h,w), drop (B,) bool -> channels (B,k,t,h,w). Raises ValueError."""
        if "latent_beside" not in batch:
            raise ValueError(
                "conditioner=latent_beside: the batch has no latent_beside. Use a data set that has it, or let "
                "conditioner=frames take known frames from the clip."
            )
        beside = batch["latent_beside"].to(drop.device)
        if beside.shape[1] != self.spec.channels:
            raise ValueError(
                f"conditioner=latent_beside: latent_beside has {beside.shape[1]} channels, and channels says "
                f"{self.spec.channels}."
            )
        return Cond(channels=beside.masked_fill(drop[:, None, None, None, None], 0.0))
