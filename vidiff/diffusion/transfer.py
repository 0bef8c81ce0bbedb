"""Sampling a model along a path it was not trained on, by matching log-SNR.

Two paths with the same log-SNR differ by a factor only: x' / |alpha', sigma'| = x / |alpha, sigma|
(Karras et al. 2022 (2206.00364), app. B; Kingma et al. 2021, sec. 5). x0 and noise are the same.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Aiming, Estimate, EstimateFn, toward
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval


def transfer(estimate: EstimateFn, trained: Path, sampled: Path, interval: Interval = (0.0, 1.0)) -> EstimateFn:
    """`estimate` was learned on `trained` within `interval`; the result takes x_t of `sampled`.

    Where the sampled path is noisier than anything seen in training the model is asked at the
    noisiest time it knows.
    """

    def equal_noise(t: Tensor) -> Tensor:
        return trained.time(sampled.logsnr(t)).clamp(*interval)

    def on_other_path(x: Tensor, t: Tensor, s: Tensor | None = None) -> Estimate:
        t_trained = equal_noise(t)
        scale = trained.norm(t_trained) / sampled.norm(t)
        aimed = estimate if s is None else toward(estimate, equal_noise(s))
        return aimed(expand(scale, x) * x, t_trained)

    return Aiming(on_other_path) if isinstance(estimate, Aiming) else on_other_path
