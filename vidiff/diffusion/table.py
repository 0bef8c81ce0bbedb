"""Paths given by a table of betas, one per step of a discrete diffusion, made continuous.

Ho et al. 2020 (2006.11239): entry i of alphas_cumprod is the signal left after i+1 steps. It
belongs to t = (i+1)/T; between the entries log alphas_cumprod is linear, and 0 at t = 0. That is
the VP-SDE with piecewise constant beta, so the discrete chain is met exactly at its own times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import VariancePreserving

KNOT = 1e-6
"""In table steps: a time this close to an entry is the entry, whatever the rounding of t * T."""


class BetaTable(VariancePreserving):
    """A variance-preserving path through the entries of a table of betas (T,), each in (0,1)."""

    def __init__(self, betas: Tensor):
        """Raises ValueError when a beta lies outside (0,1)."""
        betas = betas.to("cpu", torch.float64)
        worst = betas[((betas <= 0) | (betas >= 1)).nonzero()[:1].flatten()]
        if len(worst):
            raise ValueError(
                f"a beta of {worst.item():g} in a table of {len(betas)} timesteps: each must lie strictly "
                "between 0 and 1. Use more timesteps or smaller betas."
            )
        self.num_timesteps = len(betas)
        steps = -torch.log1p(-betas)
        self._totals = torch.cat([steps.new_zeros(1), steps.cumsum(0)])  # (T+1,)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The table itself, (T,) float64: entry i belongs to t = (i+1)/T."""
        return torch.exp(-self._totals[1:])

    def beta(self, t: Tensor) -> Tensor:
        """Constant between entries; at an entry that of the step that leads to it."""
        totals = self._totals_for(t)
        i = self._piece(t)
        return (totals[i + 1] - totals[i]) * self.num_timesteps

    def total_beta(self, t: Tensor) -> Tensor:
        totals = self._totals_for(t)
        i = self._piece(t)
        return totals[i] + (t * self.num_timesteps - i) * (totals[i + 1] - totals[i])

    def time_of_total(self, total: Tensor) -> Tensor:
        totals = self._totals_for(total)
        i = (torch.searchsorted(totals, total.contiguous()) - 1).clamp(0, self.num_timesteps - 1)
        return (i + (total - totals[i]) / (totals[i + 1] - totals[i])) / self.num_timesteps

    def label(self, t: Tensor) -> Tensor:
        """t - 1/T: times 1000 the integer timestep of the published models, for T = 1000."""
        return t - 1 / self.num_timesteps

    def _piece(self, t: Tensor) -> Tensor:
        return ((t * self.num_timesteps - KNOT).ceil().long() - 1).clamp(0, self.num_timesteps - 1)

    def _totals_for(self, t: Tensor) -> Tensor:
        return self._totals.to(t.dtype).to(t.device)


def ramp(low: float, high: float, num: int) -> Tensor:
    """(num,) float64, equally spaced. Always on the CPU: a table is data, never to be left on the meta device."""
    return torch.linspace(low, high, num, dtype=torch.float64, device="cpu")
