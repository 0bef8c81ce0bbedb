"""The "likelihood" weight of SiT: Ma et al. 2024 (2401.08740); the variational bound of VDM (2107.00630)."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("sit_likelihood")
class SitLikelihood(Weighting):
    """-logsnr'/2 |noise - noise_hat|^2: with uniform times the variational bound on the likelihood."""

    space = "noise"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return -path.logsnr_dot(t) / 2
