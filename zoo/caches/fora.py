"""FORA: Selvaraju et al. 2024, Fast-Forward Caching (2407.01425), sec. 3.2.

What attention and MLP of every block answer is kept for `interval` evaluations; norms, modulations and gates are
computed always. A static rule: it looks at nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.blocks import Rows, narrowed, replaced
from vidiff.caching import Cache, CacheRun, OffRun, Tally, distance
from vidiff.registry import CACHES
from vidiff.types import Count
from zoo.layers.attention import SelfAttention
from zoo.layers.mlp import MLP
from zoo.layers.text import CrossAttention

LAYERS = (SelfAttention, CrossAttention, MLP)


def layers_of(backbone: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where attention and MLPs stand in the blocks, as (parent, name)."""
    parents = [module for block in backbone.blocks for module in block.modules()]
    return [(p, name) for p in parents for name, child in p.named_children() if isinstance(child, LAYERS)]


class ForaRun(CacheRun):
    """One sampling run: the age of each row, and what each layer answered it when it was computed."""

    def __init__(self, interval: int, tally: Tally):
        self.interval, self.tally = interval, tally
        self.ages: dict[Hashable, int] = {}
        self.kept: dict[tuple[int, Hashable], Tensor] = {}

    @contextmanager
    def call(self, backbone: nn.Module, branches: Sequence[Hashable], rows: Rows) -> Iterator[None]:
        """Within, layers are computed for the rows whose turn it is. Raises ValueError where one was passed by."""
        self.rows, places = rows, layers_of(backbone)
        self.keys = [(branch, i) for branch in branches for i in range(len(rows.now) // len(branches))]
        ages = [self.ages.get(key, 0) for key in self.keys]
        self.ages.update({key: age + 1 for key, age in zip(self.keys, ages, strict=True)})
        self.fresh = [i for i, age in enumerate(ages) if age % self.interval == 0]
        self.tally.count(len(self.fresh), len(ages) - len(self.fresh))
        self.called: set[int] = set()
        with replaced(places, lambda i: partial(self.layer, i)):
            yield
        if len(self.called) < len(places) and self.interval > 1:
            name = places[min(set(range(len(places))) - self.called)][1]
            raise ValueError(f"'{name}' of a block is not called as a whole here. Use cache=first_block.")

    def layer(self, i: int, layer: nn.Module, x: Tensor, *inputs: Any) -> Tensor:
        """The i-th layer's answer to x (B*f,N,D), of which f belong to one row."""
        self.called.add(i)
        folds = len(x) // len(self.keys)
        rows = x.unflatten(0, (-1, folds))
        kept = [self.kept.get((i, key)) for key in self.keys]
        fits = [k is not None and k.shape == row.shape for k, row in zip(kept, rows, strict=True)]
        fresh = [r for r in range(len(rows)) if r in self.fresh or not fits[r]]
        if len(fresh) == len(rows):
            answer = layer(x, *inputs).unflatten(0, (-1, folds))
        else:
            answer = self.some(layer, x, inputs, fresh, folds, kept)
        checked = [r for r in fresh if fits[r]]
        self.tally.errors += distance([kept[r] for r in checked], answer[checked])
        self.kept.update({(i, self.keys[r]): answer[r] for r in fresh})
        return answer.flatten(0, 1)

    def some(
        self, layer: nn.Module, x: Tensor, inputs: tuple[Any, ...], fresh: list[int], folds: int, kept: list[Any]
    ) -> Tensor:
        """(B,f,N,D): computed for the rows `fresh`, kept for the others."""
        rows = list(kept)
        if fresh:
            index = torch.tensor(fresh, device=x.device)
            with self.rows.narrowed(index):
                answer = layer(*narrowed((x, *inputs), index, len(rows), folds)).unflatten(0, (-1, folds))
            for r, row in zip(fresh, answer, strict=True):
                rows[r] = row
        return torch.stack(rows)


@CACHES.register("fora", tiny=dict(interval=2))
class Fora(Cache):
    """Attention and MLPs are computed in every `interval`-th evaluation and repeated in between; 1 is off.

    Each branch of guidance counts the evaluations it takes part in.
    """

    off = ("interval", 1)

    def __init__(self, interval: Count = 2):
        self.interval = interval

    def start(self, tally: Tally) -> CacheRun:
        """The state of one sampling run."""
        run = ForaRun(self.interval, tally)
        return OffRun(self, run) if self.is_off else run

    def fits(self, backbone: nn.Module) -> None:
        """Raises ValueError for a backbone whose blocks have no attention or no MLP to keep."""
        found = {type(p.get_submodule(name)) for p, name in layers_of(backbone)}
        if not {SelfAttention, MLP} <= found:
            use = "cache=first_block" if getattr(backbone, "streams", 0) else "a transformer backbone, or cache=none"
            name = type(backbone).__name__
            raise ValueError(f"the blocks of {name} have no attention and MLP side by side. Use {use}.")
