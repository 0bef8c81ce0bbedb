"""An exact denoiser of Gaussian videos whose frames may have times of their own.

Every pixel of a clip is an independent draw of x0 ~ N(0, K) over frames. With x_f = alpha_f x0_f + sigma_f noise_f,
A = diag(alpha), S = diag(sigma^2):

    E[x0|x] = K A (A K A + S)^-1 x,        E[noise|x] = diag(sigma) (A K A + S)^-1 x

so what is known of a frame is used exactly, whatever its time. Everything in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.path import Path

F64 = torch.float64


def autoregressive(frames: int, rho: float = 0.9) -> Tensor:
    """The covariance (frames,frames) of a stationary AR(1) process of unit variance."""
    i = torch.arange(frames, dtype=F64)
    return rho ** (i[:, None] - i).abs()


class FrameGaussian:
    """Clips (B,c,t,h,w) of independent pixels with covariance K (t,t) over frames."""

    def __init__(self, covariance: Tensor):
        self.covariance = covariance

    def estimate(self, path: Path) -> EstimateFn:
        """The perfect estimate: x (B,c,t,h,w), t (B,) or (B,t)."""

        def exact(x: Tensor, t: Tensor) -> Estimate:
            frames = x.shape[2]
            k, t = self.covariance[:frames, :frames], t if t.ndim == 2 else t[:, None].expand(-1, frames)
            alpha, sigma = path.alpha(t), path.sigma(t)
            total = alpha[:, :, None] * k * alpha[:, None] + torch.diag_embed(sigma**2)
            seen = torch.linalg.solve(total, x.movedim(2, 1).flatten(2))  # (B,t,pixels)
            x0 = k @ (alpha[..., None] * seen)
            shape = (len(x), frames, x.shape[1], *x.shape[3:])
            return Estimate(*(v.reshape(shape).movedim(1, 2) for v in (x0, sigma[..., None] * seen)))

        return exact

    def conditional(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Given the frames known (t,) bool: the gain (unknown,known) of the mean, the covariance of the unknown."""
        k, u, o = self.covariance, ~known, known
        gain = k[u][:, o] @ torch.linalg.inv(k[o][:, o])
        return gain, k[u][:, u] - gain @ k[o][:, u]
