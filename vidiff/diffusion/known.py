"""Drawing what is not known, given what is: two ways to ask a network, one way to hold what is known in place.

    replacement     the network sees what is known as noisy as the rest (Song et al. 2021 (2011.13456), app. I.2)
    conditioning    it sees it clean, at time 0, as a network trained with times per frame can (2407.01392, 2206.07696)

In both, what is believed of a known element is the truth: x0 = z, noise = (x_t - alpha z) / sigma. So every sampler
takes it along its own way from noise to z, whatever its steps, and no sampler is edited.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Aiming, Estimate, EstimateFn, toward
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.task import Known, Sampling


def pinned(estimate: EstimateFn, known: Known, path: Path) -> EstimateFn:
    """`estimate`, with the truth where it is known."""

    def exact(x: Tensor, t: Tensor, s: Tensor | None = None) -> Estimate:
        belief = estimate(x, t) if s is None else toward(estimate, s)(x, t)
        alpha, sigma = expand(path.alpha(t), x), expand(path.sigma(t), x)
        true = torch.where(sigma > 0, (x - alpha * known.latent) / sigma, 0.0)
        x0, noise = torch.where(known.mask, known.latent, belief.x0), torch.where(known.mask, true, belief.noise)
        return belief.believing(x0, noise)

    return Aiming(exact) if isinstance(estimate, Aiming) else exact


def shown_clean(estimate: EstimateFn, known: Known, path: Path, level: float = 0.0) -> EstimateFn:
    """`estimate`, asked with known frames at time `level` and without noise: alpha(level) z.

    A level above 0 tells the network not to trust frames that it drew itself (2407.01392, sec. 3.3: stabilised).
    """

    def told(t: Tensor) -> Tensor:
        each = t if t.ndim == 2 else t[:, None].expand(-1, known.latent.shape[2])
        return torch.where(known.frames, each.clamp(max=level), each)

    def asked(x: Tensor, t: Tensor, s: Tensor | None = None) -> Estimate:
        clean = expand(path.alpha(told(t)), x) * known.latent
        aimed = estimate if s is None else toward(estimate, told(s))
        return aimed(torch.where(known.mask, clean, x), told(t))

    return Aiming(asked) if isinstance(estimate, Aiming) else asked


def begin(sampling: Sampling, known: Known) -> Tensor:
    """x at the first time: noise, with what is known noised alike."""
    noise, t = sampling.noise(), sampling.times[0]
    rest = expand(sampling.path.norm(t), noise) * noise
    return torch.where(known.mask, sampling.path.point(known.latent, noise, t), rest)


def fill(sampling: Sampling, known: Known, clean: bool, level: float = 0.0, times: Tensor | None = None) -> Tensor:
    """Latents (B,c,t,h,w) that hold what is known; `clean` says which of the two ways the network is asked.

    `times` (S+1,) or (S+1,t), by default those of the sampler.
    """
    estimate = sampling.believe(known)
    if not known.mask.any():
        return sampling.run(estimate, sampling.start(), times)
    asked = shown_clean(estimate, known, sampling.path, level) if clean else estimate
    z = sampling.run(pinned(asked, known, sampling.path), begin(sampling, known), times)
    return torch.where(known.mask, known.latent, z)


def noised(sampling: Sampling, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """x at time s (B,...) with fresh noise up to time t > s: the path's own way forward."""
    path = sampling.path
    kept = path.alpha(t) / path.alpha(s)
    added = torch.sqrt((path.sigma(t) ** 2 - (kept * path.sigma(s)) ** 2).clamp(min=0))
    return expand(kept, x) * x + expand(added, x) * sampling.random.normal(x.shape, x.dtype).to(x.device)
