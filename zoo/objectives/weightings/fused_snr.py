"""Fused SNR: Chen et al. 2024, Diffusion Forcing (2407.01392), sec. 3 and app. B.1 (published code: `cum_snr_decay`).

Min-SNR (Hang et al. 2023, 2303.09556) that counts what earlier frames say about a frame as signal, too. With
S = SNR / gamma, M = min(S, 1), the frames before frame f and a decay d:

    C_f = d C_{f-1} + (1 - d) M_{f-1},  C_1 = M_0,  C_0 = 0
    weight = gamma (1 - (1 - d C_f)(1 - M_f))  of |x0 - x0_hat|^2, seen from SNR' = gamma (1 - (1 - d C_f)(1 - S_f))
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting, error_ratio
from vidiff.registry import WEIGHTINGS
from vidiff.types import Fraction, Positive


@WEIGHTINGS.register("fused_snr")
class FusedSnr(Weighting):
    """min-SNR where a frame's SNR is fused with that of the frames before it; one time per clip gives min-SNR.

    As in the published code, the weight moves to the network's space at the fused SNR': for eps it is divided by
    SNR', for v by SNR' + 1.
    """

    space = "x0"

    def __init__(self, gamma: Positive = 5.0, decay: Fraction = 0.96):
        """`decay` is how long earlier frames count. Raises ValueError for a decay of 1, which forgets nothing."""
        if decay == 1:
            raise ValueError("decay is 1: earlier frames would count for ever. Use a number below 1.")
        self.gamma, self.decay = gamma, decay

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return self.gamma * self.fuse(self.snr(path, t).clamp(max=1), t, path)

    def __call__(self, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
        """t (B,) or (B,frames) -> the weight of the network's own squared error, shaped like t."""
        if t.ndim < 2:
            return super().__call__(path, prediction, t)
        fused = self.gamma * self.fuse(self.snr(path, t), t, path)
        seen = path.time(fused.log())
        return self.weight(path, t) * error_ratio("x0", path, prediction, seen)

    def snr(self, path: Path, t: Tensor) -> Tensor:
        """SNR / gamma."""
        return path.logsnr(t).exp() / self.gamma

    def fuse(self, own: Tensor, t: Tensor, path: Path) -> Tensor:
        """1 - (1 - d C)(1 - own): own (B,frames) with what the frames before are worth."""
        if t.ndim < 2:
            return own
        told = self.decay * self.before(self.snr(path, t).clamp(max=1))
        return told + (1 - told) * own

    def before(self, clipped: Tensor) -> Tensor:
        """C (B,frames): the running average of the frames before, 0 for the first."""
        running = [clipped[:, 0]]
        for frame in clipped[:, 1:].unbind(1):
            running.append(self.decay * running[-1] + (1 - self.decay) * frame)
        return F.pad(torch.stack(running[:-1], dim=1), (1, 0)) if len(running) > 1 else torch.zeros_like(clipped)
