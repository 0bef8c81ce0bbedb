"""What the checks share: outcomes, numbers drawn, dice watched, and plain parts to wire a component with."""

from __future__ import annotations

import math
import random as python_random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.diffusion.path import Path
from vidiff.registry import KINDS


class Broken(AssertionError):
    """The promise is not kept; the message holds what was found."""


class Beside(Exception):
    """The promise does not concern this component; the message says why."""


def require(kept: bool | Tensor, found: str) -> None:
    """Raises Broken with what was found instead."""
    if not bool(kept):
        raise Broken(found)


def draw(*shape: int, seed: int = 2) -> Tensor:
    """Unit normal numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: nn.Module, seed: int = 1) -> nn.Module:
    """Every parameter drawn anew, so that outputs are of order one: a fresh network may answer zero to all."""
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            scale = 0.3 if p.ndim < 2 else math.prod(p.shape[1:]) ** -0.5
            p.copy_(torch.randn(p.shape, generator=dice) * scale)
    return module.eval()


def moved(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    return ((a - b).norm() / b.norm().clamp(min=1e-12)).item()


def apart(a: Tensor, b: Tensor, atol: float = 1e-5, rtol: float = 1e-5) -> float:
    """By how much the worst entry of a is further from b than atol + rtol |b|; inf where either is no number."""
    beyond = ((a - b).abs() - atol - rtol * b.abs()).max().item()
    return beyond if math.isfinite(beyond) else math.inf


@contextmanager
def watched_dice() -> Iterator[None]:
    """Raises Broken when a global generator (torch, numpy, random) was used inside."""
    import numpy as np

    before = torch.get_rng_state(), np.random.get_state(), python_random.getstate()
    yield
    require(torch.equal(torch.get_rng_state(), before[0]), "torch's global generator was used.")
    numbers, place = np.random.get_state()[1:3]  # most draws move the place only
    same = (numbers == before[1][1]).all() and place == before[1][2]
    require(same, "numpy's global generator was used.")
    require(python_random.getstate() == before[2], "Python's global generator was used.")


class PlainAttention:
    """torch's own attention."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh) -> (B,heads,N,Dh)."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def refuses(self, device: str, dtype: object, head_dim: int, masked: bool) -> str | None:
        """Nothing."""
        return None


class PlainPositions(nn.Module):
    """Sines of the coordinates, another frequency and phase for each channel."""

    def __init__(self, *, dim: int, axes: str, head_dim: int = 0, grid: object = None):
        super().__init__()
        self.dim, self.axes = dim, axes

    def added(self, coords: Tensor) -> Tensor:
        """coords (*sizes,axes) -> (*sizes,D)."""
        place = torch.arange(1, self.dim + 1, device=coords.device, dtype=torch.float32)
        waves = [torch.sin(coords[..., i, None] / place.sqrt() + (i + 1) * place) for i in range(coords.shape[-1])]
        return torch.stack(waves).sum(0)

    def rotation(self, coords: Tensor) -> None:
        """None."""


class PlainRotation(nn.Module):
    """Turns channels (2i, 2i+1) by a sum of the coordinates, at another frequency for each pair."""

    def __init__(self, *, dim: int, axes: str, head_dim: int, grid: object = None):
        super().__init__()
        self.head_dim, self.axes = head_dim, axes

    def added(self, coords: Tensor) -> None:
        """None."""

    def rotation(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """coords (*sizes,axes) -> cos and sin, each (*sizes,Dh)."""
        pair = torch.arange(self.head_dim, device=coords.device) // 2 + 1
        along = torch.arange(1, coords.shape[-1] + 1, device=coords.device, dtype=torch.float32).sqrt()
        angle = (coords * along).sum(-1, keepdim=True) / pair
        return angle.cos(), angle.sin()


def registered(kind: str, plain: Any = None) -> list[tuple[str, Any]]:
    """(name, built with its defaults) of all that is registered of a kind, or `plain` where nothing is."""
    return [(c.name, c.build()) for c in KINDS[kind]] or [("plain", plain)]


class Straight(Path):
    """x_t = (1 - t) x0 + t noise."""

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)
