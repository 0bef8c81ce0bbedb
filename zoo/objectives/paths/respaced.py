"""A shorter chain through some entries of a table: Nichol & Dhariwal 2021 (2102.09672), sec. 4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.table import BetaTable
from vidiff.registry import PATHS
from vidiff.types import Count, Natural


@PATHS.register("respaced", tiny=dict(path=dict(name="ddpm", num_timesteps=90), sections=(40,)), parts={"path": "path"})
class Respaced(BetaTable):
    """The chain that visits only some timesteps of another; the network is told the timesteps of that other one.

    `sections` [100] keeps 100 timesteps, first and last included ("100" in improved-diffusion's words); [10, 20]
    cuts the chain in two and keeps 10 of the first half, 20 of the second ("10,20"). `every` 20 instead keeps
    timesteps 0, 20, 40 … ("ddim50" of 1000). Raises ValueError when the other path is no table, or has too few.
    """

    def __init__(self, path: Path | str = "ddpm", sections: tuple[Count, ...] = (100,), every: Natural = 0):
        if not isinstance(path, BetaTable):
            raise ValueError("path: only a table of timesteps can be respaced. Use ddpm or another ddpm_* path.")
        kept = list(range(0, path.num_timesteps, every)) if every else kept_of_sections(path.num_timesteps, sections)
        signal = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), path.alphas_cumprod[kept]])
        super().__init__(1 - signal[1:] / signal[:-1])
        self.path = path
        knots = [0.0, *((i + 1) / path.num_timesteps for i in kept)]
        self._knots = torch.tensor(knots, dtype=torch.float64, device="cpu")

    def label(self, t: Tensor) -> Tensor:
        """The label of the entry it is in the other table; linear between entries."""
        i, fraction, _, _ = self._at(t)
        knots = self._knots.to(t.dtype).to(t.device)
        return self.path.label(knots[i] + fraction * (knots[i + 1] - knots[i]))


def kept_of_sections(num_timesteps: int, sections: Sequence[int]) -> list[int]:
    """The timesteps that `sections` keep. Raises ValueError when a section has fewer than it is to keep."""
    size, extra = divmod(num_timesteps, len(sections))
    kept, first = [], 0
    for i, count in enumerate(sections):
        length = size + (i < extra)
        if count > length:
            raise ValueError(f"{count} timesteps cannot be kept of a section of {length}.")
        stride, place = (length - 1) / max(count - 1, 1), 0.0
        for _ in range(count):
            kept.append(first + round(place))
            place += stride
        first += length
    return kept
