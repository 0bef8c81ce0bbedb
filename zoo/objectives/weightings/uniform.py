"""No weighting: the plain squared error of the network's own output."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("uniform")
class Uniform(Weighting):
    """1 on the error of whatever is predicted, so it is another loss behind another prediction."""

    space = "target"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return torch.ones_like(t)
