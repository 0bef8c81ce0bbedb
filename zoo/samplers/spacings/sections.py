"""Timestep respacing with another density in every part: Nichol & Dhariwal 2021 (2102.09672); "10,15,20" in DiT."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Count, Natural


@SPACINGS.register("sections")
class Sections(Spacing):
    """The chain in equal sections, from data to noise, with steps in these `shares`, equally spaced in each.

    Shares [10, 15, 20] with 45 steps are the published "10,15,20"; other numbers of steps are shared out in proportion.
    Raises ValueError for more steps in a section than it has timesteps.
    """

    def __init__(self, shares: tuple[Natural, ...] = (2, 1), num_timesteps: Count = 1000):
        self.shares, self.num_timesteps = shares, num_timesteps
        if not sum(shares):
            raise ValueError(f"shares {list(shares)} leave no step to any section.")

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        size, longer = divmod(self.num_timesteps, len(self.shares))
        chosen, start = [], 0
        for i, count in enumerate(self.counts(steps)):
            length = size + (i < longer)
            if count > length:
                raise ValueError(f"{count} sampling steps cannot be taken from a section of {length} timesteps.")
            stride = (length - 1) / (count - 1) if count > 1 else 1.0
            chosen += [start + round(place) for place in accumulate([0.0] + [stride] * (count - 1))][:count]
            start += length
        times = (torch.tensor(chosen[::-1], dtype=torch.float64) + 1) / self.num_timesteps
        return torch.cat([times.clamp(*interval), times.new_zeros(1)])

    def counts(self, steps: int) -> list[int]:
        """The steps of each section: what is left after rounding down goes to the largest remainders."""
        exact = [steps * share / sum(self.shares) for share in self.shares]
        counts = [int(e) for e in exact]
        order = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
        for i in order[: steps - sum(counts)]:
            counts[i] += 1
        return counts
