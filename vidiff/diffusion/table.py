"""Paths given by a table of betas, one per step of a discrete diffusion, made continuous.

Ho et al. 2020 (2006.11239): entry i of alphas_cumprod is the signal left after i+1 steps. It
belongs to t = (i+1)/T; between the entries log alphas_cumprod is linear, and 0 at t = 0. That is
the VP-SDE with piecewise constant beta, so the discrete chain is met exactly at its own times.
Where the last beta is 1, nothing is left of the signal (zero terminal SNR); in that last step alpha
itself falls linearly, to exactly 0 at t = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import VariancePreserving

KNOT = 1e-6
"""In table steps: a time this close to an entry is the entry, whatever the rounding of t * T."""


class BetaTable(VariancePreserving):
    """A variance-preserving path through the entries of a table of betas (T,), each in (0,1), the last at most 1."""

    def __init__(self, betas: Tensor):
        """Raises ValueError when a beta lies outside (0,1), or the last outside (0,1]."""
        betas = betas.to("cpu", torch.float64)
        self.num_timesteps, self.ends_in_noise = len(betas), bool(betas[-1] == 1)
        inner = betas[:-1] if self.ends_in_noise else betas
        worst = inner[((inner <= 0) | (inner >= 1)).nonzero()[:1].flatten()]
        if len(worst):
            raise ValueError(
                f"a beta of {worst.item():g} in a table of {len(betas)} timesteps: each must lie strictly "
                "between 0 and 1 (the last may be 1). Use more timesteps or smaller betas."
            )
        steps = -torch.log1p(-betas)
        self._totals = torch.cat([steps.new_zeros(1), steps.cumsum(0)])  # (T+1,), infinite at the end of the signal

    @property
    def alphas_cumprod(self) -> Tensor:
        """The table itself, (T,) float64: entry i belongs to t = (i+1)/T."""
        return torch.exp(-self._totals[1:])

    def beta(self, t: Tensor) -> Tensor:
        """Constant between entries, at an entry that of the step that leads to it; 2T/(1 - f) in a step to nothing."""
        i, fraction, _, rise = self._at(t)
        return torch.where(self._fatal(i), 2 / (1 - fraction), rise) * self.num_timesteps

    def total_beta(self, t: Tensor) -> Tensor:
        i, fraction, low, rise = self._at(t)
        fatal = self._fatal(i)
        return low + torch.where(fatal, -2 * torch.log1p(-fraction.where(fatal, 0)), fraction * rise)

    def time_of_total(self, total: Tensor) -> Tensor:
        totals = self._totals.to(total.dtype).to(total.device)
        i = (torch.searchsorted(totals, total.contiguous()) - 1).clamp(0, self.num_timesteps - 1)
        more, rise = total - totals[i], totals[i + 1] - totals[i]
        return (i + torch.where(self._fatal(i), -torch.expm1(-more / 2), more / rise)) / self.num_timesteps

    def alpha_dot(self, t: Tensor) -> Tensor:
        i, _, low, _ = self._at(t)
        return torch.where(self._fatal(i), -self.num_timesteps * torch.exp(-low / 2), super().alpha_dot(t))

    def sigma_dot(self, t: Tensor) -> Tensor:
        kept = -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)
        return torch.where(self._fatal(self._at(t)[0]), kept, super().sigma_dot(t))

    def label(self, t: Tensor) -> Tensor:
        """t - 1/T: times 1000 the integer timestep of the published models, for T = 1000."""
        return t - 1 / self.num_timesteps

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The step t lies in, the fraction of it that is done, B at its start and what it adds (finite)."""
        totals = self._totals.to(t.dtype).to(t.device)
        i = ((t * self.num_timesteps - KNOT).ceil().long() - 1).clamp(0, self.num_timesteps - 1)
        rise = (totals[i + 1] - totals[i]).where(~self._fatal(i), 1)
        return i, t * self.num_timesteps - i, totals[i], rise

    def _fatal(self, i: Tensor) -> Tensor:
        """Whether this is the step in which the signal ends."""
        return (i == self.num_timesteps - 1) & self.ends_in_noise


def ramp(low: float, high: float, num: int) -> Tensor:
    """(num,) float64, equally spaced. Always on the CPU: a table is data, never to be left on the meta device."""
    return torch.linspace(low, high, num, dtype=torch.float64, device="cpu")
