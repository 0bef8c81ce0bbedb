"""Dynamic thresholding: Saharia et al. 2022, Imagen (2205.11487), sec. 2.3.

s is a high percentile of |x0| within a sample, at least `limit`; x0 is cut at s and shrunk by limit / s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Around, Evaluate, Given, Guidance, revised
from vidiff.registry import GUIDANCE
from vidiff.types import Fraction, Positive


@GUIDANCE.register("dynamic_threshold", tiny=dict(percentile=0.9), parts={"guidance": "guidance"})
class DynamicThreshold(Around):
    """Another guidance, its believed x0 kept in the range of the data.

    `limit` is the largest absolute value of clean data: 1 for pixels in [-1,1] (tubelet, frame_patch, pixels). Other
    latents have no hard range. A belief within the limit stays as it is, bit by bit.
    """

    def __init__(self, guidance: Guidance | str = "cfg", percentile: Fraction = 0.995, limit: Positive = 1.0):
        super().__init__(guidance)
        self.percentile, self.limit = percentile, limit

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        inner = self.guidance(evaluate, given)

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            guided = inner(x, t)
            s = quantile(guided.x0.abs(), self.percentile).clamp(min=self.limit)
            return revised(given.path, guided, guided.x0.clamp(-s, s) * (self.limit / s), t)

        return estimate


def quantile(x: Tensor, share: float) -> Tensor:
    """The quantile of each sample, interpolated: (B,...) -> (B,1,...). torch.quantile takes 16 million numbers only."""
    ranked = x.flatten(1).sort(dim=1).values
    place = share * (ranked.shape[1] - 1)
    low = int(place)
    high = min(low + 1, ranked.shape[1] - 1)
    return torch.lerp(ranked[:, low], ranked[:, high], place - low).reshape(-1, *[1] * (x.ndim - 1))
