"""The prior: what noise is made of, in training and as the start of sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidiff.random import Random


class Noise:
    """A distribution of unit variance per element."""

    white = False
    """Whether elements are independent Gaussians."""

    def __call__(self, shape: Sequence[int], random: Random, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B,c,t,h,w) of this dtype on `random.device`; row i is a function of random's i-th key alone."""
        raise NotImplementedError


class PriorRandom:
    """A `Random` whose normal numbers come from a prior.

    Stochastic samplers draw from it, so the noise they add is of the kind the model was trained on.
    """

    def __init__(self, noise: Noise, random: Random):
        self.noise, self.random = noise, random

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A draw of the prior of this shape; the first axis is the rows."""
        return self.noise(shape, self.random, dtype)
