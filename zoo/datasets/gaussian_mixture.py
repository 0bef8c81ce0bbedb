"""Draws of a mixture of Gaussians, whose law is known: with backbone `oracle_mixture` nothing is left to be learned.

    clip ~ sum_k w_k N(mu_k, S_k)      of mean 0 and, on average, unit variance

Everything about such data has a closed form (vidiff/diffusion/mixture.py): the best network, the least loss at every
noise level, the guided fields. Clips are float32 and not bytes, because rounding would be another law.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from vidiff.diffusion.mixture import Mixture
from vidiff.random import generator
from vidiff.registry import DATASETS
from vidiff.types import Count, Fraction, Natural, Positive

SPLITS = ("train", "val", "test")
LARGEST = 1024
"""Elements of a clip: covariances are matrices of so many rows and columns."""


@DATASETS.register("gaussian_mixture", tiny=dict(shape=(1, 3, 2, 4), components=3, num_classes=2, clips=7))
class GaussianMixture:
    """`components` Gaussians with weights, means and correlations of their own; component k has label k % num_classes.

    `between` is the share of the variance that lies between the components. `law` numbers the mixtures: it is part of
    what the data are, so runs of other seeds see other draws of the same law. `clips` is the length of an epoch.
    """

    def __init__(
        self,
        shape: tuple[Count, Count, Count, Count] = (1, 4, 4, 4),
        components: Count = 6,
        num_classes: Natural = 3,
        between: Fraction = 0.6,
        law: Natural = 0,
        clips: Count = 10_000,
        fps: Positive = 8.0,
        *,
        seed: int,
        split: str,
    ):
        """Raises ValueError for an unknown split, more than 1,024 elements, and classes without a component."""
        if split not in SPLITS:
            raise ValueError(f"split '{split}' is not known. Known: {', '.join(SPLITS)}.")
        if math.prod(shape) > LARGEST:
            raise ValueError(f"shape {list(shape)} has {math.prod(shape):,} elements: at most {LARGEST:,}.")
        if num_classes > components:
            raise ValueError(f"{num_classes} classes of {components} components: give each class one at least.")
        self.shape, self.num_classes, self.fps = tuple(shape), num_classes, float(fps)
        self.clips, self.key = clips, (seed, "gaussian_mixture", split)
        self.law = mixture(math.prod(shape), components, max(num_classes, 1), between if components > 1 else 0.0, law)

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Clip i of an endless stream: {"video": float32 (C,T,H,W), "fps"}; with classes "label" and "text"."""
        drawn, k = self.law.draw(generator(*self.key, i), 1)
        item = {"video": drawn[0].reshape(self.shape).float(), "fps": self.fps}
        if self.num_classes:
            label = int(self.law.classes[k])
            item |= {"label": label, "text": f"class {label}"}
        return item


def mixture(dim: int, components: int, num_classes: int, between: float, law: int) -> Mixture:
    """A mixture of mean 0 and mean variance 1, `between` of it between the means; a function of its arguments."""
    g = generator(law, "gaussian_mixture", dim, components)
    weights = 0.5 + torch.rand(components, generator=g, dtype=torch.float64)
    weights = weights / weights.sum()
    means = torch.randn(components, dim, generator=g, dtype=torch.float64)
    means = means - weights @ means
    spread = (weights @ means**2).mean()
    means = means * (between / spread).sqrt() if between else torch.zeros_like(means)
    axes = torch.linalg.qr(torch.randn(components, dim, dim, generator=g, dtype=torch.float64)).Q
    lengths = torch.exp(3 * torch.rand(components, dim, generator=g, dtype=torch.float64))  # variances 1 to 20
    covariances = axes @ torch.diag_embed(lengths) @ axes.mT
    scale = (1 - between) / (weights @ lengths).mean()
    return Mixture(weights, means, scale * covariances, torch.arange(components) % num_classes)
