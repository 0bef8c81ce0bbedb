"""How much each noise level counts, stated in a space and moved to the network's.

With x_t fixed an error dy of the network is an error -sigma/D dy of x0, alpha/D dy of the noise,
(alpha^2 + sigma^2)/D dy of v and (alpha sigma' - sigma alpha')/D dy of the velocity. So a weight
stated for |x0 - x0_hat|^2 becomes, for |y - y_hat|^2, that weight times (sigma/D)^2: min-SNR gives
the same loss behind every prediction.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path

Space = Literal["x0", "noise", "v", "velocity", "target"]


class Weighting:
    """A weight per noise level, for the squared error in `space`."""

    space: Space = "target"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        """The weight in its own space, >= 0, shaped like t."""
        raise NotImplementedError

    def __call__(self, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
        """The weight of the network's own squared error, shaped like t."""
        return self.weight(path, t) * error_ratio(self.space, path, prediction, t)

    def loss(self, path: Path, prediction: Prediction, t: Tensor, error: Tensor) -> Tensor:
        """What the network's own squared error (shaped like t) costs: weight * error, but for weights that learn."""
        return self(path, prediction, t).to(error.dtype) * error


def error_ratio(space: Space, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
    """|error in space|^2 / |error of the network|^2 at fixed x_t, shaped like t."""
    if space == "target":
        return t.new_ones(t.shape)
    return (_per_solve(space, path, t) / prediction.determinant(path, t)) ** 2


def _per_solve(space: Space, path: Path, t: Tensor) -> Tensor:
    alpha, sigma = path.alpha(t), path.sigma(t)
    if space == "x0":
        return sigma
    if space == "noise":
        return alpha
    if space == "v":
        return alpha**2 + sigma**2
    return alpha * path.sigma_dot(t) - sigma * path.alpha_dot(t)
