"""Counter-based randomness: every number drawn is a function of (seed, purpose, counters).

There is no generator state to save or lose. Row i of a batch draws from a generator of its
own, keyed by the number of the sample it belongs to, so a sample meets the same noise whatever
the batch size, the accumulation, the number of workers or processes, and however often the run
was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive(seed: int, *key: int | str) -> int:
    """A 63-bit seed from a seed and a key of words and counters (SHA-256, the same on every machine)."""
    text = "/".join([str(seed), *map(str, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator for this key."""
    return torch.Generator(device).manual_seed(derive(seed, *key))


class Random:
    """The draws of one batch: row i comes from the generator of (seed, *key, rows[i]).

    `rows` are global sample numbers; `total` is the size of the global batch they belong to and
    `first` its first number (stratified densities need to know). `device` is where draws are made.
    """

    def __init__(
        self,
        seed: int,
        *key: int | str,
        rows: Sequence[int],
        first: int = 0,
        total: int | None = None,
        device: torch.device | str = "cpu",
    ):
        self.seed, self.key, self.rows = seed, key, list(rows)
        self.first, self.total, self.device = first, total or len(self.rows), device
        self._rows = [generator(seed, *key, row, device=device) for row in self.rows]
        self._shared: dict[str, torch.Generator] = {}

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Unit normal numbers of this shape; the first axis is the rows."""
        return self._draw(torch.randn, shape, dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0,1) of this shape; the first axis is the rows."""
        return self._draw(torch.rand, shape, dtype)

    def stream(self, purpose: str) -> Random:
        """Dice for one purpose alone: whatever else is drawn, and how often, does not move them."""
        return Random(self.seed, *self.key, purpose, rows=self.rows, first=self.first, total=self.total,
                      device=self.device)  # fmt: skip

    def shared(self, purpose: str) -> torch.Generator:
        """One generator for the whole global batch (the same in every process); as a row's, it goes on where it was."""
        if purpose not in self._shared:
            self._shared[purpose] = generator(self.seed, *self.key, "shared", purpose, self.first, device=self.device)
        return self._shared[purpose]

    def _draw(self, draw, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if shape[0] != len(self.rows):
            raise ValueError(f"{shape[0]} rows asked of a batch of {len(self.rows)}")
        one = tuple(shape[1:])
        return torch.stack([draw(one, generator=g, dtype=dtype, device=self.device) for g in self._rows])
